// One switch on pages that fold their code: shows or hides all of it, and remembers the choice while the visit lasts.
document.addEventListener("DOMContentLoaded", () => {
  const cells = [...document.querySelectorAll("article div.cell > details.hide, article div.cell details.hide.above-input")];
  const title = document.querySelector("article h1");
  if (cells.length < 2 || !title) return;

  const button = document.createElement("button");
  button.type = "button";
  button.className = "code-switch";
  const show = (all) => {
    cells.forEach((cell) => { cell.open = all; });
    button.textContent = all ? "Hide all code" : "Show all code";
    button.setAttribute("aria-pressed", String(all));
  };
  button.addEventListener("click", () => {
    const all = button.getAttribute("aria-pressed") !== "true";
    try { sessionStorage.setItem("all-code", String(all)); } catch { /* the choice is forgotten */ }
    show(all);
  });
  let remembered = "false";
  try { remembered = sessionStorage.getItem("all-code"); } catch { /* private windows may refuse */ }
  show(remembered === "true");
  const origin = document.querySelector("article p.origin");
  (origin || title).insertAdjacentElement(origin ? "beforeend" : "afterend", button);
});
