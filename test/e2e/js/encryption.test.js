// An encrypted room between two companies: the SDK's own cryptography on both sides, so that a message is only read
// when device lists, one-time keys and messages to devices got to where they belong.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as c from "./clients.js";

const { platform, merchant } = c;

test("an encrypted room", async (t) => {
    let alice, alices, bob, roomId, recovery, sessions;
    const said = new Map(); // event id → body

    const say = async (from, ...to) => {
        const body = `secret ${said.size + 1}`;
        const id = await c.say(from, roomId, body);
        said.set(id, body);
        for (const client of to) await c.read(client, roomId, id, body);
        return id;
    };

    await c.journey(t, {
        "set up cryptography on both nodes": async () => {
            alices = await c.register(platform, `alice-${process.pid}`);
            alice = await c.startEncrypted(c.signIn(platform, alices, { keys: () => recovery }));
            bob = await c.startEncrypted(c.signIn(merchant, await c.register(merchant, `bob-${process.pid}`)));
        },
        "make an encrypted room": async () => {
            const encryption = { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };
            ({ room_id: roomId } = await alice.createRoom({ preset: "private_chat", initial_state: [encryption], invite: [bob.getUserId()] }));
            await c.inRoom(alice, roomId, "join");
            await c.inRoom(bob, roomId, "invite");
            await bob.joinRoom(roomId, { viaServers: [alice.getDomain()] });
            await c.inRoom(bob, roomId, "join");
            await c.state(bob, roomId, "m.room.encryption", "", (content) => content.algorithm);
            await c.state(alice, roomId, "m.room.member", bob.getUserId(), (content) => content.membership === "join");
        },
        "read each other": async () => {
            const id = await say(alice, bob);
            assert.equal(bob.getRoom(roomId).findEventById(id).getWireType(), "m.room.encrypted");
            await say(bob, alice);
        },
        "a new device reads what comes": async () => {
            const second = await c.startEncrypted(c.signIn(merchant, await c.login(merchant, bob.getUserId())));
            await c.inRoom(second, roomId, "join");
            const known = async () => (await alice.getCrypto().getUserDeviceInfo([bob.getUserId()])).get(bob.getUserId())?.size === 2;
            await c.untilTrue("bob's second device", known);
            await say(alice, bob, second);
            await second.logout(true);
            await c.untilTrue("the end of bob's second device", async () => !(await known()));
        },
        "keys wait for a node that is down": async () => {
            await c.control("stop", "merchant");
            const ids = [];
            for (let i = 0; i < 3; i++) {
                await alice.getCrypto().forceDiscardSession(roomId); // a key for each message
                ids.push(await say(alice));
            }
            await c.control("start", "merchant");
            bob.retryImmediately();
            for (const id of ids) await c.read(bob, roomId, id, said.get(id));
            await say(bob, alice);
        },
        "and for the other one": async () => {
            await c.control("stop", "platform");
            await bob.getCrypto().forceDiscardSession(roomId);
            const id = await say(bob);
            await c.control("start", "platform");
            alice.retryImmediately();
            await c.read(alice, roomId, id, said.get(id));
        },
        "cross-signing and a backup of keys": async () => {
            const crypto = alice.getCrypto();
            await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) });
            recovery = await crypto.createRecoveryKeyFromPassphrase();
            await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => recovery, setupNewKeyBackup: true });
            const session = (id) => alice.getRoom(roomId).findEventById(id).getWireContent().session_id;
            sessions = new Set([...said.keys()].map(session)).size;
            const backup = () => alice.http.authedRequest("GET", "/room_keys/version"); // the SDK's own word is from before
            await c.untilTrue(`${sessions} keys in the backup`, async () => (await backup()).count === sessions);
        },
        "bob sees that alice signed her device": async () => {
            const status = () => bob.getCrypto().getDeviceVerificationStatus(alice.getUserId(), alices.device_id);
            await c.untilTrue("the signature", async () => (await status())?.signedByOwner);
        },
        "a new device restores what was said": async () => {
            const second = await c.startEncrypted(c.signIn(platform, await c.login(platform, alice.getUserId()), { keys: () => recovery }));
            const crypto = second.getCrypto();
            await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
            const { imported } = await crypto.restoreKeyBackup();
            assert.equal(imported, sessions);
            await c.inRoom(second, roomId, "join");
            for (const [id, body] of said) await c.read(second, roomId, id, body);
            // The import says nothing of public keys that have not come yet, and imports nothing.
            assert.ok(await crypto.userHasCrossSigningKeys(second.getUserId(), true));
            await crypto.bootstrapCrossSigning({});
            await c.untilTrue("the new device's signature", async () =>
                (await bob.getCrypto().getDeviceVerificationStatus(alice.getUserId(), second.getDeviceId()))?.signedByOwner);
        },
    });
});
