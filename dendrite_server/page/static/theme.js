// Light or dark: what the system says, until the button says otherwise.

const dark = matchMedia("(prefers-color-scheme: dark)");

export function startTheme(button) {
  const asked = localStorage.getItem("dendrite.theme");
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    const other = theme === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `Switch to ${other}`);
  };
  apply(asked ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => localStorage.getItem("dendrite.theme") || apply(dark.matches ? "dark" : "light"));
  button.addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("dendrite.theme", theme);
    apply(theme);
  });
}
