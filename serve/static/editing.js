// Corrected text keeps its times: words that stayed keep theirs, new ones share the time of those that they replace.

export function rewritten(words, text) {
  const tokens = text.split(/\s+/).filter(Boolean);
  const result = [];
  let i = 0, j = 0;
  for (const [a, b] of [...common(words, tokens), [words.length, tokens.length]]) {
    result.push(...spread(words, i, a, tokens.slice(j, b)));
    if (a < words.length) result.push(words[a]);
    [i, j] = [a + 1, b + 1];
  }
  return result;
}

// Pairs (word, token) of a longest common subsequence.
function common(words, tokens) {
  const n = words.length, m = tokens.length;
  const longest = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1)); // of the rests from i and j
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      const same = words[i].word === tokens[j];
      longest[i][j] = same ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < n && j < m;) {
    if (words[i].word === tokens[j]) pairs.push([i++, j++]);
    else if (longest[i + 1][j] >= longest[i][j + 1]) i++;
    else j++;
  }
  return pairs;
}

// Tokens in place of words[from] to words[to - 1]: one for one if there are as many, else by their lengths.
function spread(words, from, to, tokens) {
  const old = words.slice(from, to);
  if (old.length === tokens.length) return tokens.map((token, k) => corrected(old[k], token));
  const before = words[from - 1]?.end, after = words[to]?.start;
  const start = old[0]?.start ?? before ?? after ?? 0;
  const end = Math.max(start, old.at(-1)?.end ?? after ?? start);
  return shared(tokens, start, end).map((word) => ({ ...word, edited: true }));
}

// Words that share a time by their lengths.
export function shared(tokens, start, end) {
  const letters = tokens.reduce((sum, token) => sum + token.length, 0);
  let at = start;
  return tokens.map((token) => {
    const begin = at;
    at += ((end - start) * token.length) / letters;
    return { word: token, start: round(begin), end: round(at) };
  });
}

export function corrected(word, text) {
  const { confidence, alternatives, ...kept } = word; // these were of the other text
  return { ...kept, word: text, edited: true };
}

// An alternative in the dress of the word that it replaces: its case, if it has none of its own, and its marks.
export function dressed(text, like) {
  const [, before, core, after] = like.match(/^([^\p{L}\p{N}]*)(.*?)([^\p{L}\p{N}]*)$/su);
  const plain = text === text.toUpperCase() || text === text.toLowerCase();
  if (plain && !(core.length > 1 && core === core.toUpperCase())) {
    text = text.toLowerCase();
    if (core[0] !== core[0]?.toLowerCase()) text = text[0].toUpperCase() + text.slice(1);
  }
  return /[\p{L}\p{N}]$/u.test(text) ? before + text + after : text;
}

function round(seconds) {
  return Math.round(seconds * 1000) / 1000;
}
