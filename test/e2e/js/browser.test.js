// The same library in a browser: a page from elsewhere, so that what the nodes say of CORS counts, with the keys of the
// device in IndexedDB, which a reload must find again, and calls as browsers make them.
import assert from "node:assert/strict";
import { test } from "node:test";

import { browse } from "./browser.js";
import * as c from "./clients.js";

const { platform, merchant } = c;

test("two browsers", async (t) => {
    const open = await browse(t, c.given("KNOCK_E2E_CHROMIUM"));
    const said = []; // event id and body
    let alice, bob, roomId, recovery;

    // enter opens a page and registers or logs in there.
    const enter = async (url, how, name) => {
        const at = await open();
        const who = await at.page.evaluate(async ([url, how, name]) => enter(url, await c[how](url, name)), [url, how, name]);
        return { ...at, ...who };
    };
    const say = async (from, ...to) => {
        const body = `secret ${said.length + 1}`;
        const id = await from.page.evaluate(([roomId, body]) => c.say(client, roomId, body), [roomId, body]);
        said.push([id, body]);
        for (const { page } of to) await page.evaluate((args) => c.read(client, ...args), [roomId, id, body]);
    };
    const readAll = async ({ page }) => {
        const unreadable = await page.evaluate(async ([roomId, said]) => {
            await c.inRoom(client, roomId, "join");
            await c.toTheBeginning(client, client.getRoom(roomId));
            for (const [id, body] of said) await c.read(client, roomId, id, body);
            return c.unreadable(client, roomId);
        }, [roomId, said]);
        assert.deepEqual(unreadable, []);
    };
    // trusts waits until one has the other verified.
    const trusts = (who, other) => who.page.evaluate((user) => {
        const status = () => client.getCrypto().getUserVerificationStatus(user);
        return c.untilTrue("trust", async () => (await status()).isCrossSigningVerified());
    }, other.user);

    await c.journey(t, {
        "register in two pages": async () => {
            alice = await enter(platform, "register", `alice-${process.pid}`);
            bob = await enter(merchant, "register", `bob-${process.pid}`);
        },
        "make an encrypted room": async () => {
            roomId = await alice.page.evaluate(async (bob) => {
                const encryption = { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };
                return (await client.createRoom({ preset: "private_chat", initial_state: [encryption], invite: [bob] })).room_id;
            }, bob.user);
            await bob.page.evaluate(async ([roomId, server]) => {
                await c.inRoom(client, roomId, "invite");
                await client.joinRoom(roomId, { viaServers: [server] });
                await c.state(client, roomId, "m.room.encryption", "", (content) => content.algorithm);
            }, [roomId, alice.user.replace(/^[^:]*:/, "")]);
            await alice.page.evaluate(([roomId, bob]) => c.state(client, roomId, "m.room.member", bob, (content) => content.membership === "join"), [roomId, bob.user]);
        },
        "read each other": async () => {
            await say(alice, bob);
            await say(bob, alice);
        },
        "sign the devices, and compare emojis": async () => {
            for (const { page } of [alice, bob]) {
                await page.evaluate(() => client.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: (upload) => upload(null) }));
            }
            await alice.page.evaluate(async ([roomId, bob]) => {
                await c.untilTrue("bob's keys", () => client.getCrypto().userHasCrossSigningKeys(bob, true));
                window.request = await client.getCrypto().requestVerificationDM(bob, roomId);
            }, [roomId, bob.user]);
            await bob.page.evaluate(([roomId, alice]) => {
                const find = () => (window.request = client.getCrypto().findVerificationRequestDMInProgress(roomId, alice));
                return c.untilTrue("the request for a verification", find);
            }, [roomId, alice.user]);
            const compare = async ({ page }) => page.evaluate(async () => (window.comparison = await c.compare(request)).emojis);
            const emojis = await Promise.all([compare(alice), compare(bob)]);
            assert.equal(emojis[0], emojis[1]);
            await Promise.all([alice, bob].map(({ page }) => page.evaluate(() => comparison.confirm().then(() => {}))));
            await trusts(alice, bob);
            await trusts(bob, alice);
        },
        "edit, react, answer in a thread, and read": async () => {
            await say(alice, bob);
            const id = said.at(-1)[0];
            const edited = { msgtype: "m.text", body: "better said" };
            const answer = await alice.page.evaluate(async ([roomId, id, edited]) => {
                await c.send(client, roomId, null, { ...edited, body: "* better said", "m.new_content": edited, "m.relates_to": { rel_type: "m.replace", event_id: id } });
                await c.openThread(client, roomId, id);
                return c.send(client, roomId, id, { msgtype: "m.text", body: "in the thread" });
            }, [roomId, id, edited]);
            said.at(-1)[1] = edited.body;
            said.push([answer, "in the thread"]);
            const reaction = await bob.page.evaluate(async ([roomId, id, answer, body]) => {
                await c.read(client, roomId, id, body);
                await c.read(client, roomId, answer, "in the thread");
                const room = client.getRoom(roomId);
                await client.sendReadReceipt(room.getThread(id).findEventById(answer));
                return (await client.sendEvent(roomId, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: id, key: "👍" } })).event_id;
            }, [roomId, id, answer, edited.body]);
            await alice.page.evaluate(async ([roomId, id, answer, reaction, bob]) => {
                await c.seen(client, roomId, reaction);
                const room = client.getRoom(roomId);
                const counted = () => room.relations.getChildEventsForEvent(id, "m.annotation", "m.reaction")?.getSortedAnnotationsByKey()?.[0]?.[0];
                await c.until("the reaction", client, c.RoomEvent.Timeline, () => counted() === "👍");
                await c.until("the receipt", client, c.RoomEvent.Receipt, () => room.getThread(id).getReadReceiptForUserId(bob, true)?.eventId === answer);
            }, [roomId, id, answer, reaction, bob.user]);
        },
        "search": async () => {
            const found = await alice.page.evaluate(async () => {
                const { room_id: room } = await client.createRoom({ preset: "private_chat" });
                await c.inRoom(client, room, "join");
                const id = await c.say(client, room, "the parcel leaves on Friday");
                await c.say(client, room, "and comes on Monday");
                const { results } = await client.searchRoomEvents({ term: "friday", filter: { rooms: [room] } });
                return results.map((r) => r.context.getEvent().getId() === id);
            });
            assert.deepEqual(found, [true]);
        },
        "a file": async () => {
            const bytes = [...c.picture];
            const id = await alice.page.evaluate(async ([roomId, bytes]) => {
                const { cipher, file } = await c.encryptFile(new Uint8Array(bytes));
                const { content_uri: url } = await client.uploadContent(new Blob([cipher]), { type: "application/octet-stream", includeFilename: false });
                return c.send(client, roomId, null, { msgtype: "m.file", body: "parcel.png", file: { ...file, url } });
            }, [roomId, bytes]);
            const got = await bob.page.evaluate(async ([roomId, id]) => {
                await c.read(client, roomId, id, "parcel.png");
                return [...(await c.downloadEncrypted(client, client.getRoom(roomId).findEventById(id).getContent().file))];
            }, [roomId, id]);
            assert.deepEqual(got, bytes);
        },
        "a call": async () => {
            const reach = ({ page }, state) => page.evaluate((state) => c.untilTrue(`a call ${state}`, () => call.state === state), state);
            await alice.page.evaluate((roomId) => {
                window.call = c.createNewMatrixCall(client, roomId);
                return call.placeVoiceCall();
            }, roomId);
            await bob.page.evaluate(async () => {
                await c.untilTrue("the call", () => window.call?.state === "ringing");
                await call.answer(true, false);
            });
            for (const who of [alice, bob]) {
                await reach(who, "connected");
                await who.page.evaluate(() => {
                    const bytes = (report) => report.type === "inbound-rtp" && report.bytesReceived > 0;
                    return c.untilTrue("the other's voice", async () => (await call.getCurrentCallStats()).some(bytes));
                });
            }
            await alice.page.evaluate(() => call.hangup("user_hangup", false));
            await reach(bob, "ended");
        },
        "reload, and go on with the kept keys": async () => {
            await bob.leave();
            await say(alice);
            await say(alice);
            await bob.back();
            const { user, device } = await bob.page.evaluate(() => resume());
            assert.deepEqual([user, device], [bob.user, bob.device]);
            await readAll(bob);
            await trusts(bob, alice);
            await say(bob, alice);
            await say(alice, bob);
        },
        "a node is down meanwhile": async () => {
            await c.control("stop", "platform");
            await bob.page.evaluate((roomId) => client.getCrypto().forceDiscardSession(roomId), roomId);
            await say(bob);
            await c.control("start", "platform");
            await alice.page.evaluate(() => client.retryImmediately());
            await readAll(alice);
            await say(alice, bob);
        },
        "a backup of keys": async () => {
            recovery = await alice.page.evaluate(async (roomId) => {
                const crypto = client.getCrypto();
                window.recovery = await crypto.createRecoveryKeyFromPassphrase();
                await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => window.recovery, setupNewKeyBackup: true });
                const encrypted = client.getRoom(roomId).getLiveTimeline().getEvents().filter((event) => event.isEncrypted());
                const sessions = new Set(encrypted.map((event) => event.getWireContent().session_id)).size;
                const backup = () => client.http.authedRequest("GET", "/room_keys/version");
                await c.untilTrue(`${sessions} keys in the backup`, async () => (await backup()).count >= sessions);
                return [...window.recovery.privateKey];
            }, roomId);
        },
        "another browser restores what was said": async () => {
            const second = await enter(platform, "login", alice.user);
            await second.page.evaluate(async (key) => {
                window.recovery = { privateKey: new Uint8Array(key) };
                await client.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
                await client.getCrypto().restoreKeyBackup();
            }, recovery);
            await readAll(second);
            await say(second, alice, bob);
        },
        "nothing was unreadable": async () => {
            await readAll(alice);
            await readAll(bob);
        },
    });
});
