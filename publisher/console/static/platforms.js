// What is chosen decides which fields there are, and what is in them: the form comes again, with what is filled in.

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
