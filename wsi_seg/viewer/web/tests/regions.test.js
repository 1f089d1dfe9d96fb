import assert from "node:assert/strict";
import { test } from "node:test";
import { pack, regionAt, ringsOf, touching } from "../regions.js";

const square = (/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ side) => [x, y, x + side, y, x + side, y + side, x, y + side];
const ANSWER = {
  groups: [{ name: "tumor", color: "#c80000" }, { name: "stroma", color: "#00ff00" }], hidden: 3,
  regions: [
    { i: 5, g: 0, rings: [square(90100, 70100, 100), square(90120, 70120, 20)] },
    { i: 9, g: 1, rings: [square(90130, 70130, 50)] },
    { i: 12, g: 1, rings: [square(90400.25, 70400.5, 10)] },
  ],
};
const regions = pack(ANSWER, [90000, 70000, 91000, 71000], 1);
const all = () => true;

test("regions are packed without loss", () => {
  assert.equal(regions.hidden, 3);
  assert.deepEqual(Array.from(ringsOf(regions, 2)[0]), square(400.25, 400.5, 10));
  assert.deepEqual(ringsOf(regions, 0).map((ring) => ring.length), [8, 8]);
  assert.deepEqual(touching(regions, [90195, 70195, 90300, 70300]), [0]);
  assert.deepEqual(touching(regions, [0, 0, 99999, 99999]), [0, 1, 2]);
});

test("the smallest region at a point is found, holes are none, and hidden groups are passed over", () => {
  assert.equal(regionAt(regions, 90110, 70110, all)?.index, 5);
  assert.equal(regionAt(regions, 90125, 70125, all), null);
  assert.equal(regionAt(regions, 90150, 70150, all)?.index, 9);
  const below = regionAt(regions, 90150, 70150, (group) => group === "tumor");
  assert.deepEqual(below, { index: 5, group: "tumor", area: 9600, bbox: [90100, 70100, 90200, 70200] });
});

test("no regions are no trouble", () => {
  const none = pack({ groups: [], regions: [], hidden: 0 }, [0, 0, 1, 1], 1);
  assert.equal(regionAt(none, 0, 0, all), null);
});
