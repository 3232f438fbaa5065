"use strict";
(() => {
  const own = (node, selector) => node.querySelector(`:scope > details > ${selector}`);
  const open = (element) => {
    for (let one = element; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  };
  const serve = (tree) => {
    const nodes = Array.from(tree.querySelectorAll("li.node"));
    const folds = Array.from(tree.querySelectorAll("li.others, details.control"));
    const tools = tree.querySelector(".filter");
    const [verdict, least, words, found] = [".verdict", ".least", ".words", ".found"].map((name) => tools.querySelector(name));
    const pair = tree.querySelector(".pair");
    const texts = new Map();
    let picked = [];

    const said = (node) => {
      if (!texts.has(node)) texts.set(node, (own(node, "summary").textContent + own(node, ".told").textContent).toLowerCase());
      return texts.get(node);
    };
    const fits = (node, text) =>
      (verdict.value === "" || node.dataset.verdict === verdict.value) &&
      (least.value === "" || (node.dataset.score !== "" && Number(node.dataset.score) >= Number(least.value))) &&
      (text === "" || said(node).includes(text));
    const refresh = () => {
      const text = words.value.trim().toLowerCase();
      const all = verdict.value === "" && least.value === "" && text === "";
      const fit = new Set(nodes.filter((node) => fits(node, text)));
      const keep = new Set(fit);
      for (const node of fit) for (let one = node.parentElement.closest("li.node"); one && !keep.has(one); one = one.parentElement.closest("li.node")) keep.add(one);
      for (const node of nodes) {
        node.hidden = !keep.has(node);
        node.classList.toggle("dim", !fit.has(node));
      }
      for (const fold of folds) {
        const inside = all || Array.from(fold.querySelectorAll("li.node")).some((node) => !node.hidden);
        fold.hidden = !inside;
        if (inside && !all) (fold.matches("details") ? fold : fold.firstElementChild).open = true;
      }
      if (!all) for (const node of fit) open(node.parentElement);
      found.textContent = `${fit.size} of ${nodes.length} nodes`;
    };

    const side = (node) => {
      const part = document.createElement("div");
      const head = document.createElement("p");
      for (const one of own(node, "summary").children) {
        if (one.matches(".preview, button")) continue;
        head.append(one.cloneNode(true), " ");
      }
      part.append(head, own(node, ".told").cloneNode(true));
      return part;
    };
    const compare = () => {
      for (const button of tree.querySelectorAll(".pick")) {
        button.setAttribute("aria-pressed", String(picked.includes(button.closest("li.node"))));
      }
      const close = document.createElement("button");
      close.type = "button";
      close.textContent = picked.length < 2 ? "Close (choose a second node)" : "Close";
      close.addEventListener("click", clear);
      pair.replaceChildren(close, ...picked.map(side));
      pair.hidden = picked.length === 0;
    };
    const clear = () => {
      picked = [];
      compare();
    };
    const pick = (event) => {
      event.preventDefault(); // a button in a summary folds nothing
      const node = event.currentTarget.closest("li.node");
      picked = picked.includes(node) ? picked.filter((one) => one !== node) : [...picked, node].slice(-2);
      compare();
    };
    for (const node of nodes) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "pick";
      button.textContent = "compare";
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", pick);
      own(node, "summary").append(" ", button);
    }
    tree.addEventListener("keydown", (event) => {
      if (event.key === "Escape") clear();
    });
    for (const field of [verdict, least, words]) field.addEventListener("input", refresh);
    tools.hidden = false;
    found.textContent = `${nodes.length} nodes`;
    return { tree, reset: () => { verdict.value = least.value = words.value = ""; refresh(); } };
  };

  const trees = Array.from(document.querySelectorAll(".branch-tree"), serve);
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    const within = target && target.matches("li.node") && trees.find((one) => one.tree.contains(target));
    if (!within) return;
    if (target.hidden || target.closest("[hidden]")) within.reset();
    open(target.firstElementChild);
    target.scrollIntoView({ block: "center" });
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#n']");
    if (link && link.getAttribute("href") === location.hash) reveal(); // no hashchange comes
  });
  window.addEventListener("hashchange", reveal);
  reveal();
})();
