// The choice decides which fields the form has, and their values: ask the server for the form again, as it is filled in.

for (const button of document.querySelectorAll("[data-show]")) {
  const { form } = button;
  button.remove();
  form.addEventListener("change", ({ target }) => {
    if (target.dataset.shows === undefined) return;
    const show = document.createElement("input");
    Object.assign(show, { type: "hidden", name: "show", value: "1" });
    form.append(show);
    form.submit();
  });
}
