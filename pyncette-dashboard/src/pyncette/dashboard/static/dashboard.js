"use strict";
(() => {
  const root = document.documentElement;
  const kept = {
    get: (name) => { try { return localStorage.getItem("pyncette-" + name); } catch { return null; } },
    set: (name, value) => { try { localStorage.setItem("pyncette-" + name, value); } catch { /* it lasts as long as the page */ } },
  };
  const theme = kept.get("theme");
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;

  let zone = kept.get("zone") || "local";
  const showTimes = (within) => {
    for (const each of within.querySelectorAll("time")) {
      const task = each.dataset.zone || "UTC";
      const wanted = zone === "utc" ? "UTC" : zone === "task" ? task : undefined;
      const options = { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" };
      let format;
      try { format = new Intl.DateTimeFormat("sv-SE", { ...options, timeZone: wanted }); } catch { format = new Intl.DateTimeFormat("sv-SE", { ...options, timeZone: "UTC" }); }
      const text = format.format(new Date(each.dateTime));
      if (each.textContent !== text) each.textContent = text;
    }
  };

  addEventListener("DOMContentLoaded", () => {
    showTimes(document);
    const select = document.getElementById("zone");
    select.value = zone;
    select.addEventListener("change", () => { zone = select.value; kept.set("zone", zone); showTimes(document); });
    document.getElementById("theme").addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      kept.set("theme", root.dataset.theme);
    });

    // A question is asked in a dialog; without this script it is a page of its own.
    const dialog = document.getElementById("dialog");
    const read = async (response) => new DOMParser().parseFromString(await response.text(), "text/html");
    const ask = (page) => {
      const form = page.getElementById("ask") || page.querySelector(".alert");
      dialog.replaceChildren(document.adoptNode(form));
      showTimes(dialog);
      if (!dialog.open) dialog.showModal();
    };
    document.addEventListener("click", async (event) => {
      const link = event.target.closest("a");
      if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (link.dataset.cancel !== undefined && dialog.open) { event.preventDefault(); dialog.close(); }
      if (link.dataset.act === undefined) return;
      event.preventDefault();
      try { ask(await read(await fetch(link.href))); } catch { location.href = link.href; }
    });
    dialog.addEventListener("submit", async (event) => {
      const { submitter, target } = event;
      if (!submitter || submitter.name !== "dry") return;
      event.preventDefault();
      const body = new URLSearchParams(new FormData(target));
      body.set("dry", "1");
      ask(await read(await fetch(target.action, { method: "POST", body })));
    });

    // The same page is asked for again, and what has changed of it is shown.
    let delay = Number(document.body.dataset.refresh);
    const nameOf = (element) => element.getAttribute("href") || element.textContent;
    const namesakes = (within, element) => [...within.querySelectorAll("a, button")].filter((each) => nameOf(each) === nameOf(element));
    const refresh = async () => {
      try {
        if (document.hidden || dialog.open) return;
        const page = await read(await fetch(location.href, { headers: { Accept: "text/html" } }));
        delay = Number(page.body.dataset.refresh) || delay;
        if (dialog.open) return;
        showTimes(page);
        for (const id of ["live", "fresh"]) {
          const [old, fresh] = [document.getElementById(id), page.getElementById(id)];
          if (!old || !fresh || old.innerHTML === fresh.innerHTML) continue;
          const focused = old.contains(document.activeElement) ? document.activeElement : null;
          const place = focused && namesakes(old, focused).indexOf(focused);
          old.replaceChildren(...document.adoptNode(fresh).childNodes);
          if (focused) namesakes(old, focused)[place]?.focus();
        }
        document.getElementById("fresh").classList.remove("error");
      } catch {
        document.getElementById("fresh").textContent = "The dashboard does not answer; looking again…";
        document.getElementById("fresh").classList.add("error");
      } finally {
        if (delay) setTimeout(refresh, delay);
      }
    };
    if (delay) setTimeout(refresh, delay);
  });
})();
