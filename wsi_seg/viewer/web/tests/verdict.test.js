import assert from "node:assert/strict";
import { test } from "node:test";

import { verdictLines } from "../verdict.js";

/** @param {string} verdict @param {string} sentence @param {number[] | null} interval */
function compared(verdict, sentence, interval, patients = 3) {
  const dice = { old: 0.612, new: 0.685, difference: 0.073, interval };
  return { verdict, sentence, bootstrap: { level: 0.95 }, data_sets: [
    { name: "review", patients, images: 7, overall: { mean_dice: dice } },
    { name: "old", patients: 1, images: 2, overall: { mean_dice: { ...dice, new: 0.5, difference: -0.112, interval: [-0.2, -0.01] } } },
  ] };
}

test("a better model is called so with its interval", () => {
  assert.deepEqual(verdictLines(compared("better", "review: the new model is better: …", [0.02, 0.11])), [
    "The new model is better.", "Mean Dice on the reviews of 3 held-out patients: 0.612 before, 0.685 after.",
    "Difference +0.073, 95 % interval +0.020 … +0.110.",
  ]);
});

test("the data that show it is worse are named", () => {
  const [head, figures, difference] = verdictLines(compared("worse", "old: the new model is worse: …", [0.02, 0.11]));
  assert.equal(head, "The new model is worse.");
  assert.match(figures, /on old of 1 held-out patient: 0.612 before, 0.500 after/);
  assert.equal(difference, "Difference −0.112, 95 % interval −0.200 … −0.010.");
});

test("an interval with zero is no difference", () => {
  const lines = verdictLines(compared("no difference shown", "review: the interval includes zero: …", [-0.02, 0.11]));
  assert.equal(lines[0], "No difference is shown.");
  assert.match(lines[2], /−0.020 … \+0.110. The interval includes zero/);
});

test("without an interval the reason is said", () => {
  const reason = "mean Dice 0.612 before, 0.685 after; 2 held-out patients, and an interval takes at least 3";
  assert.deepEqual(verdictLines(compared("cannot be told", `review: ${reason}`, null, 2)), ["Whether the new model is better cannot be told.", `${reason}.`]);
  const nothing = { verdict: "cannot be told", sentence: "Nobody was held out.", data_sets: [] };
  assert.deepEqual(verdictLines(nothing), ["Whether the new model is better cannot be told.", "Nobody was held out."]);
});
