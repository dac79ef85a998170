// Small behaviours of every page. Listeners are delegated, so they survive htmx swaps.

function toast(title, category = "success") {
  document.getElementById("toaster")?.toast?.({ category, title });
}

async function copy(button) {
  const what = button.dataset.copy;
  const source = what.startsWith("#")
    ? document.querySelector(`${what}:not([hidden])`).innerText
    : what;
  try {
    await navigator.clipboard.writeText(source);
  } catch {
    return; // no permission: nothing was copied, so nothing is claimed
  }
  button.dataset.done = "1";
  setTimeout(() => delete button.dataset.done, 1500);
  toast(document.body.dataset.copied);
}

function toggleTheme() {
  const dark = document.documentElement.classList.toggle("dark");
  localStorage.setItem("theme", dark ? "dark" : "light");
}

function showSnippet(tab) {
  for (const other of tab.parentElement.children) {
    const on = other === tab;
    other.setAttribute("aria-selected", on);
    other.tabIndex = on ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !on;
  }
}

document.addEventListener("click", (event) => {
  const at = (selector) => event.target.closest(selector);
  if (at("[data-copy]")) copy(at("[data-copy]"));
  if (at("[data-theme-toggle]")) toggleTheme();
  if (at("[data-sidebar-toggle]")) document.getElementById("nav").toggle?.();
  if (at("[data-dialog]")) document.getElementById(at("[data-dialog]").dataset.dialog)?.showModal();
  if (at("[data-close]")) at("dialog")?.close();
  if (at("[data-snips] [role=tab]")) showSnippet(at("[data-snips] [role=tab]"));
});

// Keys: "/" to the page's search, "g" then a letter to a page of the sidebar.
let wentAt = 0;
document.addEventListener("keydown", (event) => {
  const tab = event.target.closest?.("[data-snips] [role=tab]");
  if (tab && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    const tabs = [...tab.parentElement.children];
    const step = event.key === "ArrowRight" ? 1 : tabs.length - 1;
    const next = tabs[(tabs.indexOf(tab) + step) % tabs.length];
    next.focus();
    showSnippet(next);
    return;
  }
  const typing = event.target.closest?.("input,textarea,select,[contenteditable]");
  if (typing || event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.key === "/") {
    const search = document.querySelector("[data-search]");
    if (search) {
      event.preventDefault();
      search.focus();
    }
  } else if (event.key === "g") {
    wentAt = Date.now();
  } else if (Date.now() - wentAt < 800) {
    document.querySelector(`#nav [data-go="${event.key}"]`)?.click();
  }
});

// Typing the name of what will be deleted unlocks the button.
document.addEventListener("input", (event) => {
  const field = event.target.closest("[data-confirm-name]");
  if (!field) return;
  const button = document.getElementById(field.dataset.target);
  button.disabled = field.value !== field.dataset.confirmName;
});

// A choice that takes effect at once, for those with JavaScript; others have the button beside it.
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

for (const message of document.querySelectorAll("[data-toast]")) {
  addEventListener("load", () => toast(message.dataset.toast, message.dataset.category));
}
