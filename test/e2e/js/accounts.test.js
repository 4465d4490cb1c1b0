// One person, one node: accounts, devices and what a client keeps on its server.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as c from "./clients.js";

const { platform } = c;
const name = `erin-${process.pid}`;

test("accounts", async (t) => {
    let account, laptop, phone;

    await c.journey(t, {
        "the server speaks a version that the SDK takes": async () => {
            const stranger = c.stranger(platform);
            assert.ok(await stranger.isVersionSupported("v1.11"));
            assert.ok((await stranger.loginFlows()).flows.some((flow) => flow.type === "m.login.password"));
            assert.equal(await stranger.isUsernameAvailable(name), true);
        },
        "register": async () => {
            account = await c.register(platform, name);
            assert.match(account.user_id, new RegExp(`^@${name}:`));
            await c.refused(c.register(platform, name), "M_USER_IN_USE", 400);
        },
        "log in": async () => {
            await c.refused(c.login(platform, name, "wrong"), "M_FORBIDDEN", 403);
            laptop = await c.start(c.signIn(platform, account));
            phone = await c.start(c.signIn(platform, await c.login(platform, name)));
            assert.equal((await phone.whoami()).user_id, account.user_id);
            const devices = (await laptop.getDevices()).devices.map((device) => device.device_id);
            assert.deepEqual(devices.sort(), [laptop.getDeviceId(), phone.getDeviceId()].sort());
        },
        "the first sync brought the push rules": () => {
            assert.ok(laptop.pushRules.global.override.some((rule) => rule.rule_id === ".m.rule.master"));
        },
        "account data reaches the other device": async () => {
            await laptop.setAccountData("im.vector.setting.breadcrumbs", { recent_rooms: ["!a:example.org"] });
            const got = () => phone.getAccountData("im.vector.setting.breadcrumbs")?.getContent();
            const data = await c.until("account data", phone, c.ClientEvent.AccountData, got);
            assert.deepEqual(data, { recent_rooms: ["!a:example.org"] });
        },
        "a push rule reaches the other device": async () => {
            await laptop.setPushRuleEnabled("global", "override", ".m.rule.master", true);
            const master = () => phone.pushRules.global.override.find((rule) => rule.rule_id === ".m.rule.master").enabled;
            await c.until("the push rule", phone, c.ClientEvent.AccountData, master);
        },
        "a profile": async () => {
            await laptop.setDisplayName("Erin");
            assert.equal((await phone.getProfileInfo(account.user_id)).displayname, "Erin");
        },
        "log out": async () => {
            await phone.logout(true);
            await c.refused(phone.whoami(), "M_UNKNOWN_TOKEN", 401);
            assert.deepEqual((await laptop.getDevices()).devices.map((device) => device.device_id), [laptop.getDeviceId()]);
        },
    });
});
