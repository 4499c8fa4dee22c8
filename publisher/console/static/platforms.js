// Another platform has other fields: once one is chosen the form comes again, with what is filled in.

for (const button of document.querySelectorAll("[data-show]")) {
  const { form } = button;
  button.remove();
  form.addEventListener("change", ({ target }) => {
    const chosen = target.selectedOptions?.[0]?.dataset.platform;
    if (chosen === undefined || chosen === target.dataset.platform) return;
    const show = document.createElement("input");
    Object.assign(show, { type: "hidden", name: "show", value: "1" });
    form.append(show);
    form.submit();
  });
}
