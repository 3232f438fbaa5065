"use strict";
(() => {
  const list = document.getElementById("tasks");
  const tools = document.getElementById("tools");
  const find = document.getElementById("find");
  const sort = document.getElementById("sort");
  const shown = document.getElementById("shown");
  const nothing = document.getElementById("nothing");
  const choices = Array.from(tools.querySelectorAll("input[type=radio]"));
  const tasks = Array.from(list.querySelectorAll("article"));
  const place = new Map(tasks.map((task, index) => [task, index]));

  const states = (task) => task.dataset.status.split(" ");
  const has = (state) => (task) => states(task).includes(state);
  const wanted = {
    all: () => true,
    right: has("right"),
    partly: has("partly"),
    wrong: has("wrong"),
    ungraded: has("ungraded"),
    failed: (task) => Number(task.dataset.failed) > 0,
    differ: (task) => new Set(states(task)).size > 1,
  };
  const by = (name, sign) => (a, b) => {
    const [one, two] = [a.dataset[name], b.dataset[name]];
    if (one === "" || two === "") return (one === "") - (two === "");
    return sign * (Number(one) - Number(two));
  };
  const orders = {
    file: () => 0,
    id: (a, b) => (a.dataset.id < b.dataset.id ? -1 : 1),
    best: by("score", -1),
    worst: by("score", 1),
  };

  const refresh = () => {
    const text = find.value.trim().toLowerCase();
    const keep = wanted[choices.find((choice) => choice.checked).value];
    let left = 0;
    for (const task of tasks) {
      task.hidden = !(keep(task) && task.dataset.id.toLowerCase().includes(text));
      left += task.hidden ? 0 : 1;
    }
    shown.textContent = `${left} of ${tasks.length} shown`;
    nothing.hidden = left > 0;
  };
  const resort = () => {
    const value = sort.value; // a name of the above, or sign and name of a value that a section gave
    const compare = orders[value] || by(value.slice(1), value.startsWith("-") ? -1 : 1);
    list.append(...tasks.slice().sort((a, b) => compare(a, b) || place.get(a) - place.get(b)));
  };
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target || !target.hidden) return;
    find.value = "";
    choices[0].checked = true;
    refresh();
    target.scrollIntoView();
  };
  const jump = (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.activeElement === find) return;
    event.preventDefault();
    find.focus();
  };

  for (const choice of choices) {
    const count = tasks.filter(wanted[choice.value]).length;
    choice.nextElementSibling.lastElementChild.textContent = count;
    choice.parentElement.hidden = count === 0 && ["partly", "differ"].includes(choice.value);
    choice.addEventListener("change", refresh);
  }
  find.addEventListener("input", refresh);
  sort.addEventListener("change", resort);
  document.addEventListener("keydown", jump);
  window.addEventListener("hashchange", reveal);
  tools.hidden = false;
  refresh();
  resort();
  reveal();
})();
