// What the user chose, remembered by the browser.  Form fields are named as the settings.

const KEY = "settings";

export class Choices {
  constructor(form, onchange) {
    this.form = form;
    this.onchange = onchange;
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    for (const field of form.elements) {
      if (!field.name || !(field.name in kept)) continue;
      if (field.type === "checkbox") field.checked = kept[field.name];
      else field.value = kept[field.name];
    }
    this.model = kept.model ?? ""; // its list comes later
    form.addEventListener("change", () => this.changed());
    this.apply();
  }

  changed() {
    this.model = this.form.elements.model.value;
    localStorage.setItem(KEY, JSON.stringify(this.values));
    this.apply();
    this.onchange();
  }

  get values() {
    const found = {};
    for (const field of this.form.elements) if (field.name) found[field.name] = field.type === "checkbox" ? field.checked : field.value;
    return found;
  }

  // Switches of the display are attributes of the page, which its style sheet reads.
  apply() {
    for (const name of ["confidence", "numbers", "meter"]) document.body.dataset[name] = this.values[name] ? "on" : "off";
  }

  set models(names) {
    const select = this.form.elements.model;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    select.value = names.includes(this.model) ? this.model : names[0];
    select.closest("label").hidden = names.length < 2;
  }

  // Fields of `start`.
  get session() {
    const { model, latency, text, digits, hotwords } = this.values;
    const found = { model, latency_ms: Number(latency), text, itn: digits };
    return hotwords.trim() ? { ...found, hotwords: phrases(hotwords) } : found; // some models take none
  }

  // Fields of a file's form.
  get fields() {
    const { model, text, digits, hotwords } = this.values;
    return { model, text, itn: digits, hotwords };
  }

  get summary() {
    const { model, latency, text } = this.values;
    return [model, latency < 1000 ? `${latency} ms` : `${latency / 1000} s`, text].filter(Boolean).join(" · ");
  }
}

// Phrases, one a line, as a list; with weights after a colon as an object.
export function phrases(text, usual = 1.5) {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
  const pairs = lines.map((line) => line.match(/^(.*?)\s*:\s*(-?\d+\.?\d*)$/)?.slice(1) ?? [line, usual]);
  if (!pairs.some(([, weight]) => weight !== usual)) return lines;
  return Object.fromEntries(pairs.map(([phrase, weight]) => [phrase, Number(weight)]));
}
