// The form of a new publication: the command beside it follows what is filled in.

const form = document.getElementById("publication");

function follow() {
  const command = document.getElementById("command");
  let [asked, timer] = [0, 0];

  async function ask() {
    const mine = ++asked;
    const fields = new FormData(form);
    // What is secret is in no command, and need not go anywhere before the form does.
    for (const secret of form.querySelectorAll("input[type=password]")) fields.delete(secret.name);
    try {
      const answer = await fetch(form.dataset.command, { method: "POST", body: new URLSearchParams(fields) });
      if (answer.ok && !answer.redirected && mine === asked) command.textContent = await answer.text();
    } catch {
      // It stays as it was; the form works all the same.
    }
  }

  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, 200);
  });
}

if (form) follow();
