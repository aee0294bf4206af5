// What pages need beyond htmx: copying to the clipboard, and closing the menu when a link in it was followed.
"use strict";
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const said = document.getElementById("said");
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    if (said) said.textContent = button.dataset.copied || "";
    const use = button.querySelector("use");
    if (use) {
      const before = use.getAttribute("href");
      use.setAttribute("href", before.replace(/#.*/, "#check"));
      setTimeout(() => use.setAttribute("href", before), 1500);
    }
  } catch {
    if (said) said.textContent = button.dataset.copy;
  }
});
for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
document.addEventListener("htmx:load", (event) => {
  for (const button of event.target.querySelectorAll("[data-copy]")) button.hidden = false;
});
