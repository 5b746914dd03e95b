// Airflow shows the page in a frame that may neither open a window nor leave for another page, and
// has a colour mode of its own. Same-origin as both are, the frame follows Airflow's mode, and a
// link that leads out of it is followed by the page around it.
const around = (() => {
  try {
    return window.parent === window ? null : window.parent.document;
  } catch {
    return null;
  }
})();

if (around) {
  const follow = () => {
    const mode = ["dark", "light"].find((name) => around.documentElement.classList.contains(name));
    document.documentElement.dataset.mode = mode ?? "";
  };
  follow();
  new MutationObserver(follow).observe(around.documentElement, { attributeFilter: ["class"] });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.out");
    if (!link || event.button !== 0) return;
    event.preventDefault();
    const twin = around.createElement("a");
    twin.href = link.href;
    twin.rel = "noopener";
    twin.target = link.target === "_blank" || event.ctrlKey || event.metaKey ? "_blank" : "_self";
    around.body.append(twin);
    twin.click();
    twin.remove();
  });
}
