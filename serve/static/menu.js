// What a word may have been, and a field to write what it was.

import { corrected, dressed, rewritten } from "./editing.js";
import { element } from "./view.js";

const $ = (id) => document.getElementById(id);

// Open the menu at a word's element.  use(words): called with what stands in the word's place, none to leave it out.
export function openMenu(word, at, { play, use }) {
  const menu = $("word-menu"), list = $("alternatives");
  $("word-title").textContent = word.word;
  const choices = (word.alternatives ?? []).map((one) => ({ ...one, text: dressed(one.text, word.word) }));
  $("no-alternatives").hidden = choices.some((one) => one.text !== word.word);
  list.replaceChildren(
    ...choices.filter((one) => one.text !== word.word).map((one) => {
      const item = element("li"), button = element("button", "", one.text);
      button.type = "button";
      if (one.confidence !== undefined) button.append(element("small", "", `${Math.round(100 * one.confidence)} %`));
      button.onclick = () => close(one.text);
      item.append(button);
      return item;
    }),
  );
  $("correction").value = word.word;
  $("word-play").onclick = play;
  $("word-form").onsubmit = (event) => { event.preventDefault(); close($("correction").value); };
  menu.onpointerdown = (event) => { if (event.target === menu) menu.close(); }; // beside it; not the end of a long press
  menu.showModal();
  place(menu, at.getBoundingClientRect());
  (list.querySelector("button") ?? $("correction")).focus();

  function close(text) {
    menu.close();
    const tokens = text.trim().split(/\s+/).filter(Boolean);
    if (text.trim() !== word.word) use(tokens.length === 1 ? [corrected(word, tokens[0])] : rewritten([word], text));
  }
}

function place(menu, word) {
  const width = menu.offsetWidth, height = menu.offsetHeight, edge = 8;
  const below = word.bottom + edge + height < innerHeight;
  menu.style.left = `${Math.max(edge, Math.min(word.left, innerWidth - width - edge))}px`;
  menu.style.top = `${below ? word.bottom + edge : Math.max(edge, word.top - height - edge)}px`;
}
