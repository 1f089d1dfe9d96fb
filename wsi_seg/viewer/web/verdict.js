// What the comparison of an old and a new model says, in plain words.

/** @typedef {import("./api.js").Comparison} Comparison */

const HEADS = Object.freeze({
  better: "The new model is better.", worse: "The new model is worse.", "no difference shown": "No difference is shown.",
  "cannot be told": "Whether the new model is better cannot be told.",
});

/**
 * @param {Comparison} comparison
 * @returns {string[]} the verdict, then the figures that it rests on or the reason why there is none
 */
export function verdictLines({ verdict, sentence, bootstrap, data_sets: tables }) {
  // The reviews decide, unless old data show that the new model is worse there.
  const table = tables.find(({ name }) => sentence.startsWith(`${name}: `)) ?? tables[0];
  if (!table) return [HEADS[verdict], sentence];
  const { mean_dice: dice } = table.overall, where = table.name === "review" ? "the reviews" : table.name;
  const who = table.patients === null ? count(table.images, "held-out region") : count(table.patients, "held-out patient");
  const figures = dice.old !== null && dice.new !== null && `Mean Dice on ${where} of ${who}: ${dice.old.toFixed(3)} before, ${dice.new.toFixed(3)} after.`;
  if (!figures || dice.difference === null || dice.interval === null) return [HEADS[verdict], `${sentence.slice(table.name.length + 2)}.`];
  const [low, high] = dice.interval.map(signed), percent = Math.round(100 * (bootstrap?.level ?? 0.95));
  const zero = verdict === "no difference shown" ? " The interval includes zero, so chance explains it as well." : "";
  return [HEADS[verdict], figures, `Difference ${signed(dice.difference)}, ${percent} % interval ${low} … ${high}.${zero}`];
}

/** @param {number} number @param {string} what */
function count(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

/** @param {number} value */
function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
}
