// The two tabs, after the WAI-ARIA pattern: arrow keys move, Tab goes on into the panel. The address names the tab.

import { local } from "./memory.js";

/** Makes the tabs work; `onShow(panelId)` is called for the first one too. */
export function setUpTabs(onShow) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const named = () => tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash);
  const show = (chosen) => {
    for (const tab of tabs) {
      const selected = tab === chosen;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !selected;
    }
    const panel = chosen.getAttribute("aria-controls");
    local.set("tab", panel);
    onShow(panel);
  };
  const choose = (tab) => {
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
    show(tab);
    tab.focus();
  };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: tabs.length - 1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      choose(tabs[(steps[event.key] + tabs.length) % tabs.length]);
    });
  });
  window.addEventListener("hashchange", () => named() && show(named()));
  show(named() ?? tabs.find((tab) => tab.getAttribute("aria-controls") === local.get("tab")) ?? tabs[0]);
}
