// What the tests in Node have beside the SDK: the nodes that e2e_test.go started, and a journey in steps.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { stopAll } from "./sdk.js";

export * from "./sdk.js";

// What e2e_test.go hands over: the client URLs of two nodes, a PNG file, and where nodes are stopped and started.
export const platform = given("KNOCK_E2E_PLATFORM");
export const merchant = given("KNOCK_E2E_MERCHANT");
export const picture = readFileSync(given("KNOCK_E2E_PICTURE"));
const controls = given("KNOCK_E2E_CONTROL");

export function given(variable) {
    assert.ok(process.env[variable], `${variable} is not set: run go test ./test/e2e`);
    return process.env[variable];
}

// control has the test that started the nodes "stop" or "start" the "platform" or the "merchant"; one that was told to
// "spawn" it can "kill" too.
export async function control(what, node) {
    const answer = await fetch(`${controls}/${what}/${node}`, { method: "POST" });
    assert.equal(answer.status, 200, await answer.text());
}

export function refused(promise, errcode, httpStatus) {
    return assert.rejects(promise, { errcode, httpStatus });
}

// journey runs its steps in order; after one that fails the others are skipped.
export async function journey(t, steps) {
    let broken = false;
    t.after(() => stopAll());
    for (const [name, step] of Object.entries(steps)) {
        const run = async () => {
            broken = true;
            await step();
            broken = false;
        };
        await t.test(name, { skip: broken && "an earlier step failed" }, run);
    }
}
