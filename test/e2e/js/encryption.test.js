// An encrypted room between two companies: the SDK's own cryptography on both sides, so that a message is only read
// when device lists, one-time keys and messages to devices got to where they belong.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as c from "./clients.js";

const { platform, merchant } = c;

test("an encrypted room", async (t) => {
    let alice, alices, bob, roomId, thread, file, recovery, sessions;
    const said = new Map(); // event id → body

    const say = async (from, ...to) => tell(from, to, null, {});
    const tell = async (from, to, threadId, content) => {
        const body = content.body ?? `secret ${said.size + 1}`;
        const id = await c.send(from, roomId, threadId, { msgtype: "m.text", body, ...content });
        said.set(id, body);
        for (const client of to) await c.read(client, roomId, id, body);
        return id;
    };
    const readAll = async (client) => {
        await c.toTheBeginning(client, client.getRoom(roomId));
        for (const [id, body] of said) await c.read(client, roomId, id, body);
        assert.deepEqual(c.unreadable(client, roomId), []);
    };

    // backedUp waits until the keys of all that was said are in the backup, and returns how many they are.
    const backedUp = async () => {
        const session = (id) => alice.getRoom(roomId).findEventById(id).getWireContent().session_id;
        const wanted = new Set([...said.keys()].map(session)).size;
        const backup = () => alice.http.authedRequest("GET", "/room_keys/version"); // the SDK's own word is from before
        await c.untilTrue(`${wanted} keys in the backup`, async () => (await backup()).count >= wanted);
        return (await backup()).count;
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
        "a node that is killed loses nothing of what it answered": async () => {
            await c.control("stop", "merchant");
            await c.control("spawn", "merchant");
            bob.retryImmediately();
            await say(alice, bob);
            await c.control("stop", "platform");
            await bob.getCrypto().forceDiscardSession(roomId);
            const ids = [await say(bob), await say(bob)];
            await c.control("kill", "merchant");
            await c.control("start", "merchant");
            await c.control("start", "platform");
            for (const client of [alice, bob]) client.retryImmediately();
            for (const id of ids) await c.read(alice, roomId, id, said.get(id));
            await say(alice, bob);
        },
        "edit and react": async () => {
            const id = await say(alice, bob);
            const edited = { msgtype: "m.text", body: "better said" };
            await c.send(alice, roomId, null, { ...edited, body: "* better said", "m.new_content": edited, "m.relates_to": { rel_type: "m.replace", event_id: id } });
            said.set(id, edited.body);
            await c.read(bob, roomId, id, edited.body);
            const { event_id: reaction } = await bob.sendEvent(roomId, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: id, key: "👍" } });
            await c.seen(alice, roomId, reaction);
            const relations = () => alice.getRoom(roomId).relations.getChildEventsForEvent(id, "m.annotation", "m.reaction");
            await c.until("the reaction", alice, c.RoomEvent.Timeline, () => relations()?.getSortedAnnotationsByKey()?.[0]?.[0] === "👍");
        },
        "answer in a thread and read it there": async () => {
            thread = await say(alice, bob);
            for (const client of [alice, bob]) await c.openThread(client, roomId, thread);
            const answers = [await tell(bob, [alice], thread, {}), await tell(alice, [bob], thread, {})];
            const at = (client) => client.getRoom(roomId).getThread(thread);
            for (const client of [alice, bob]) {
                // By what is there, not by the count that the SDK keeps beside it.
                await c.untilTrue("the thread", () => answers.every((id) => at(client)?.findEventById(id)));
                assert.deepEqual(at(client).events.map((event) => event.getId()), [thread, ...answers]);
                assert.ok(!client.getRoom(roomId).getLiveTimeline().getEvents().some((event) => answers.includes(event.getId())));
            }
            await bob.sendReadReceipt(at(bob).findEventById(answers[1]));
            const receipt = () => at(alice).getReadReceiptForUserId(bob.getUserId(), true);
            await c.until("the receipt", alice, c.RoomEvent.Receipt, () => receipt()?.eventId === answers[1]);
            assert.equal(receipt().data.thread_id, thread);
        },
        "a file": async () => {
            const { cipher, file: described } = await c.encryptFile(c.picture);
            const { content_uri: url } = await alice.uploadContent(cipher, { type: "application/octet-stream", includeFilename: false });
            file = await tell(alice, [bob], null, { msgtype: "m.file", body: "parcel.png", file: { ...described, url } });
            assert.deepEqual(Buffer.from(await download(bob)), c.picture);
        },
        "signal a call": async () => {
            const { uris, username, password, ttl } = await bob.turnServer();
            assert.ok(uris[0].startsWith("turn:") && username && password && ttl > 0);
            const candidates = [{ candidate: "candidate:1 1 UDP 1 127.0.0.1 9 typ host", sdpMid: "0", sdpMLineIndex: 0 }];
            for (const [from, to, type, content] of [
                [alice, bob, "m.call.invite", { lifetime: 60_000, offer: { type: "offer", sdp: "v=0" } }],
                [alice, bob, "m.call.candidates", { candidates }],
                [bob, alice, "m.call.answer", { answer: { type: "answer", sdp: "v=0" } }],
                [bob, alice, "m.call.candidates", { candidates }],
                [alice, bob, "m.call.select_answer", { selected_party_id: bob.getDeviceId() }],
                [bob, alice, "m.call.hangup", { reason: "user_hangup" }],
            ]) {
                const call = { call_id: "a call", party_id: from.getDeviceId(), version: "1" };
                const { event_id: id } = await from.sendEvent(roomId, type, { ...call, ...content });
                const event = await c.seen(to, roomId, id);
                await c.until(type, to, c.MatrixEventEvent.Decrypted, () => event.getType() === type);
                assert.ok(event.isEncrypted());
            }
        },
        "cross-signing and a backup of keys": async () => {
            const crypto = alice.getCrypto();
            await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) });
            recovery = await crypto.createRecoveryKeyFromPassphrase();
            await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => recovery, setupNewKeyBackup: true });
            sessions = await backedUp();
        },
        "bob sees that alice signed her device": async () => {
            const status = () => bob.getCrypto().getDeviceVerificationStatus(alice.getUserId(), alices.device_id);
            await c.untilTrue("the signature", async () => (await status())?.signedByOwner);
        },
        "alice and bob compare emojis": async () => {
            await bob.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) });
            await c.untilTrue("bob's keys", () => alice.getCrypto().userHasCrossSigningKeys(bob.getUserId(), true));
            const request = await alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId);
            await verified(request, () => bob.getCrypto().findVerificationRequestDMInProgress(roomId, alice.getUserId()));
            for (const [who, other] of [[alice, bob], [bob, alice]]) {
                const status = () => who.getCrypto().getUserVerificationStatus(other.getUserId());
                await c.untilTrue("the signature of the other's key", async () => (await status()).isCrossSigningVerified());
            }
        },
        "a new device restores what was said": async () => {
            const second = await c.startEncrypted(c.signIn(platform, await c.login(platform, alice.getUserId()), { keys: () => recovery }));
            const crypto = second.getCrypto();
            await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
            const { imported } = await crypto.restoreKeyBackup();
            assert.ok(imported >= sessions, `${imported} of ${sessions}`);
            await c.inRoom(second, roomId, "join");
            await readAll(second);
            assert.deepEqual(Buffer.from(await download(second)), c.picture);
            await second.getRoom(roomId).createThreadsTimelineSets();
            await second.getRoom(roomId).fetchRoomThreads();
            assert.deepEqual(second.getRoom(roomId).getThreads().map(({ id, length }) => [id, length]), [[thread, 2]]);
            // The import says nothing of public keys that have not come yet, and imports nothing.
            assert.ok(await crypto.userHasCrossSigningKeys(second.getUserId(), true));
            await crypto.bootstrapCrossSigning({});
            await c.untilTrue("the new device's signature", async () =>
                (await bob.getCrypto().getDeviceVerificationStatus(alice.getUserId(), second.getDeviceId()))?.signedByOwner);
        },
        "another is let in by emojis, and told the secrets": async () => {
            const third = await c.startEncrypted(c.signIn(platform, await c.login(platform, alice.getUserId())));
            const crypto = third.getCrypto();
            assert.ok(await crypto.userHasCrossSigningKeys(third.getUserId(), true));
            const mine = async () => (await alice.getCrypto().getUserDeviceInfo([alice.getUserId()])).get(alice.getUserId());
            await c.untilTrue("the new device", async () => (await mine()).has(third.getDeviceId())); // a stranger's request is dropped
            const request = await crypto.requestDeviceVerification(alice.getUserId(), alice.getDeviceId());
            await verified(request, () => alice.getCrypto().getVerificationRequestsToDeviceInProgress(alice.getUserId())[0]);
            await c.untilTrue("the key of the backup", () => crypto.getSessionBackupPrivateKey());
            await c.untilTrue("the signing keys", async () => (await crypto.getCrossSigningStatus()).privateKeysCachedLocally.userSigningKey);
            assert.ok((await crypto.getUserVerificationStatus(bob.getUserId())).isCrossSigningVerified());
            await crypto.restoreKeyBackup();
            await c.inRoom(third, roomId, "join");
            await readAll(third);
            await say(third, alice, bob);
        },
        "another goes by sliding sync": async () => {
            await backedUp();
            const client = c.signIn(platform, await c.login(platform, alice.getUserId()), { keys: () => recovery });
            const fourth = await c.startEncrypted(client, c.sliding(client));
            await fourth.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
            await fourth.getCrypto().restoreKeyBackup();
            await c.inRoom(fourth, roomId, "join");
            await readAll(fourth);
            await say(bob, fourth);
            await say(fourth, alice, bob);
            await c.control("stop", "platform");
            await bob.getCrypto().forceDiscardSession(roomId);
            const id = await say(bob);
            await c.control("start", "platform");
            await c.read(fourth, roomId, id, said.get(id));
            alice.retryImmediately();
        },
        "nothing was unreadable": async () => {
            await readAll(alice);
            await readAll(bob);
        },
    });

    async function download(client) {
        return c.downloadEncrypted(client, client.getRoom(roomId).findEventById(file).getContent().file);
    }
});

// verified has both sides of a verification compare. find finds the request on the other side.
async function verified(request, find) {
    await c.untilTrue("the request for a verification", find);
    const sides = await Promise.all([c.compare(request), c.compare(find())]);
    assert.equal(sides[0].emojis, sides[1].emojis);
    await Promise.all(sides.map((side) => side.confirm()));
}
