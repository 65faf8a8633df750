// Heat-maps of late interaction. `colbertzHeatmap(section, values)` fills a section with the query's words as buttons
// and the document's words as marks. Pointing at a query word, or moving the focus to it, shows which document words it
// met; pressing it keeps them shown. The values are those of `Explanation.heatmap` in Python.
//
// Offsets count characters as Python does (Unicode code points), JavaScript's strings count UTF-16 units.
"use strict";

function colbertzHeatmap(section, values) {
  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  // The text in `parent`, with `make(word, index)` in place of each word.
  const fill = (parent, text, words, make) => {
    const characters = Array.from(text);
    let done = 0;
    words.forEach(([start, end], index) => {
      parent.append(characters.slice(done, start).join(""));
      parent.append(make(characters.slice(start, end).join(""), index));
      done = end;
    });
    parent.append(characters.slice(done).join(""));
  };

  const query = element("p", "", { class: "query", role: "group", "aria-label": "words of the query" });
  const text = element("div", "", { class: "document", tabindex: "0", "aria-label": "text of the document" });
  const met = element("p", "", { class: "met", "aria-live": "polite" });
  const marks = [];
  fill(text, values.text, values.document_words, (word) => marks[marks.push(element("mark", word)) - 1]);

  let pressed = -1;
  const highest = Math.max(...values.heat, 1e-9);
  const showAll = () => {
    marks.forEach((mark, index) => {
      mark.style.setProperty("--heat", Math.max(values.heat[index], 0) / highest);
      mark.className = "";
      mark.title = "adds " + values.heat[index].toFixed(2) + " to the score";
    });
    met.textContent = "The query's words add " + (values.score - values.other).toFixed(2) + ", its other tokens " +
      values.other.toFixed(2) + ".";
  };
  const show = (index) => {
    if (index < 0) return showAll();
    const strengths = values.strengths[index];
    // Nearly all words of a text are somewhat near: show how far above the weakest of those kept each one is.
    const strongest = strengths.length ? strengths[0][1] : 1;
    const weakest = strengths.length ? strengths[strengths.length - 1][1] : 0;
    marks.forEach((mark) => { mark.style.setProperty("--heat", 0); mark.className = ""; mark.title = ""; });
    strengths.forEach(([word, strength], rank) => {
      const height = (strength - weakest) / Math.max(strongest - weakest, 1e-9);
      marks[word].style.setProperty("--heat", height * height);
      marks[word].title = strength.toFixed(2);
      if (rank === 0) marks[word].className = "best";
    });
    const word = (place) => marks[place].textContent;
    const chosen = values.query_words[index];
    met.textContent = buttons[index].textContent + " met “" + chosen.met + "”, adds " + chosen.score.toFixed(2) +
      "; nearest words: " +
      strengths.slice(0, 5).map(([place, strength]) => word(place) + " " + strength.toFixed(2)).join(", ");
  };

  const buttons = [];
  fill(query, values.query, values.query_words.map((word) => [word.start, word.end]), (word, index) => {
    const button = element("button", word, { type: "button", "aria-pressed": "false" });
    button.title = "adds " + values.query_words[index].score.toFixed(2) + " to the score";
    button.addEventListener("pointerenter", () => show(index));
    button.addEventListener("pointerleave", () => show(pressed));
    button.addEventListener("focus", () => show(index));
    button.addEventListener("blur", () => show(pressed));
    button.addEventListener("click", () => {
      pressed = pressed === index ? -1 : index;
      buttons.forEach((other, place) => other.setAttribute("aria-pressed", String(place === pressed)));
      show(index);
    });
    buttons.push(button);
    return button;
  });
  section.querySelectorAll(".query, .document, .met").forEach((old) => old.remove());
  section.append(query, text, met);
  showAll();
}

// The maps that stand in the HTML already. A notebook runs this once for each output, a page once for all.
document.querySelectorAll(".colbertz-heatmap:not([data-ready])").forEach((section) => {
  const values = section.querySelector('script[type="application/json"]');
  if (!values) return;
  section.setAttribute("data-ready", "");
  colbertzHeatmap(section, JSON.parse(values.textContent));
});
