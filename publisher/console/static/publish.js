// The form that publishes an image: keep the curl command next to it up to date.

const form = document.getElementById("publication");

function follow() {
  const command = document.getElementById("command");
  let [asked, timer] = [0, 0];

  async function ask() {
    const mine = ++asked;
    const fields = new FormData(form);
    // The command contains no secrets, so do not send them before the form is sent.
    for (const secret of form.querySelectorAll("input[type=password]")) fields.delete(secret.name);
    try {
      const answer = await fetch(form.dataset.command, { method: "POST", body: new URLSearchParams(fields) });
      if (answer.ok && !answer.redirected && mine === asked) command.textContent = await answer.text();
    } catch {
      // The command stays as it was; the form still works.
    }
  }

  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, 200);
  });
}

if (form) follow();
