// Two companies, each with a node of its own, in one room: everything that one does is seen at the other through
// federation and the SDK's own stores.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as c from "./clients.js";

const { platform, merchant } = c;

test("two companies", async (t) => {
    let alice, bob, roomId, first, bobServer;
    const early = Array.from({ length: 25 }, (_, i) => `order ${i + 1}`);

    await c.journey(t, {
        "register and sign in on both nodes": async () => {
            alice = await c.start(c.signIn(platform, await c.register(platform, `alice-${process.pid}`)));
            const { user_id: user } = await c.register(merchant, `bob-${process.pid}`);
            bob = await c.start(c.signIn(merchant, await c.login(merchant, user)));
            bobServer = user.slice(user.indexOf(":") + 1);
            assert.notEqual(alice.getDomain(), bobServer);
            await alice.setDisplayName("Alice");
        },
        "create a room": async () => {
            ({ room_id: roomId } = await alice.createRoom({ name: "Order 4711", topic: "delivery", preset: "private_chat" }));
            const room = await c.inRoom(alice, roomId, "join");
            assert.equal(room.name, "Order 4711");
            assert.equal(room.getVersion(), "12");
            assert.equal(c.stateOf(alice, roomId, "m.room.topic").topic, "delivery");
            for (const body of early) {
                const id = await c.say(alice, roomId, body);
                first ??= id;
            }
        },
        "invite over federation": async () => {
            await alice.invite(roomId, bob.getUserId());
            const room = await c.inRoom(bob, roomId, "invite");
            await c.until("the room's name", bob, c.RoomEvent.Name, () => room.name === "Order 4711");
            assert.equal(room.getMember(bob.getUserId()).events.member.getSender(), alice.getUserId());
        },
        "join over federation": async () => {
            await bob.joinRoom(roomId, { viaServers: [alice.getDomain()] });
            const room = await c.inRoom(bob, roomId, "join");
            await c.state(bob, roomId, "m.room.topic", "", (content) => content.topic === "delivery");
            assert.equal(room.getVersion(), "12");
            await c.state(alice, roomId, "m.room.member", bob.getUserId(), (content) => content.membership === "join");
            await room.loadMembersIfNeeded();
            assert.deepEqual(room.getJoinedMembers().map((m) => m.userId).sort(), [alice.getUserId(), bob.getUserId()].sort());
            assert.equal(room.getMember(alice.getUserId()).name, "Alice");
        },
        "send and receive both ways": async () => {
            for (const [from, to, body] of [[alice, bob, "hello from the platform"], [bob, alice, "hello from the merchant"]]) {
                const id = await c.say(from, roomId, body);
                const event = await c.seen(to, roomId, id);
                assert.equal(event.getContent().body, body);
                assert.equal(event.getSender(), from.getUserId());
            }
        },
        "edit a message, react, take a message back": async () => {
            const id = await c.say(alice, roomId, "teh price");
            await c.seen(bob, roomId, id);
            const edited = { msgtype: "m.text", body: "the price" };
            await alice.sendMessage(roomId, { ...edited, "body": "* the price", "m.new_content": edited, "m.relates_to": { rel_type: "m.replace", event_id: id } });
            const original = bob.getRoom(roomId).findEventById(id);
            await c.until("the edit", bob, c.RoomEvent.Timeline, () => original.getContent().body === "the price");
            const reaction = await bob.sendEvent(roomId, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: id, key: "👍" } });
            await c.seen(alice, roomId, reaction.event_id);
            await alice.redactEvent(roomId, id, undefined, { reason: "wrong room" });
            const redacted = () => bob.getRoom(roomId).findEventById(id).isRedacted();
            await c.until("the redaction", bob, c.RoomEvent.Redaction, redacted);
        },
        "search": async () => {
            const id = await c.say(alice, roomId, "货物将于星期五送到仓库");
            await c.seen(bob, roomId, id);
            const found = await bob.searchRoomEvents({ term: "星期五 仓库", filter: { rooms: [roomId] } });
            assert.deepEqual(found.results.map((r) => r.context.getEvent().getId()), [id]);
            assert.deepEqual(found.highlights.sort(), ["仓库", "星期五"]);
            assert.equal(found.results[0].context.getTimeline().length > 1, true, "messages around it");
            const orders = await alice.searchRoomEvents({ term: "order", filter: { rooms: [roomId], types: ["m.room.message"] } });
            while (orders.next_batch) await alice.backPaginateRoomEventsSearch(orders);
            const bodies = orders.results.map((r) => r.context.getEvent().getContent().body);
            assert.deepEqual(bodies, early.toReversed());
        },
        "edit the topic": async () => {
            await alice.setRoomTopic(roomId, "delivered on Friday");
            await c.state(bob, roomId, "m.room.topic", "", (content) => content.topic === "delivered on Friday");
            await c.refused(bob.setRoomTopic(roomId, "mine"), "M_FORBIDDEN", 403);
            await alice.setPowerLevel(roomId, bob.getUserId(), 50);
            await c.state(bob, roomId, "m.room.power_levels", "", (content) => content.users[bob.getUserId()] === 50);
            await bob.setRoomTopic(roomId, "delivered on Monday");
            await c.state(alice, roomId, "m.room.topic", "", (content) => content.topic === "delivered on Monday");
        },
        "a picture": async () => {
            const file = c.picture;
            const { content_uri: url } = await alice.uploadContent(file, { type: "image/png", name: "parcel.png" });
            const info = { mimetype: "image/png", size: file.length, w: 320, h: 240 };
            const { event_id: id } = await alice.sendMessage(roomId, { msgtype: "m.image", body: "parcel.png", url, info });
            const content = (await c.seen(bob, roomId, id)).getContent();
            for (const client of [alice, bob]) await download(client, content.url, file);
        },
        "presence": async () => {
            for (const [who, to] of [[alice, bob], [bob, alice]]) {
                await who.setPresence({ presence: "online", status_msg: "packing parcels" });
                const user = () => to.getUser(who.getUserId());
                await c.until("a status", to, c.UserEvent.Presence, () => user()?.presenceStatusMsg === "packing parcels");
                assert.equal(user().presence, "online");
            }
        },
        "typing": async () => {
            for (const [from, to] of [[alice, bob], [bob, alice]]) {
                const typing = (now) => () => (to.getRoom(roomId).getMember(from.getUserId())?.typing ?? false) === now;
                await from.sendTyping(roomId, true, 30_000);
                await c.until("typing", to, c.RoomMemberEvent.Typing, typing(true));
                await from.sendTyping(roomId, false, 0);
                await c.until("the end of typing", to, c.RoomMemberEvent.Typing, typing(false));
            }
        },
        "unread counts and receipts": async () => {
            const room = bob.getRoom(roomId);
            const counts = () => [room.getUnreadNotificationCount(c.NotificationCountType.Total), room.getUnreadNotificationCount(c.NotificationCountType.Highlight)];
            const become = (...want) =>
                c.until(`unread counts of ${want}, have ${counts()}`, bob, c.ClientEvent.Sync, () => counts().join() === want.join());
            await bob.sendReadReceipt(room.getLastLiveEvent());
            await become(0, 0);
            await c.say(alice, roomId, "one");
            await become(1, 0);
            const mention = { "msgtype": "m.text", "body": "two, Bob", "m.mentions": { user_ids: [bob.getUserId()] } };
            const { event_id: id } = await alice.sendMessage(roomId, mention);
            await become(2, 1);
            await bob.sendReadReceipt(room.findEventById(id));
            await become(0, 0);
            const read = () => alice.getRoom(roomId).hasUserReadEvent(bob.getUserId(), id);
            await c.until("the receipt", alice, c.RoomEvent.Receipt, read);
        },
        "paginate back to the beginning": async () => {
            const second = await c.start(c.signIn(merchant, await c.login(merchant, bob.getUserId())), { initialSyncLimit: 5 });
            const room = await c.inRoom(second, roomId, "join");
            assert.equal(room.getLiveTimeline().getEvents().length, 5);
            await c.toTheBeginning(second, room);
            const events = room.getLiveTimeline().getEvents();
            assert.equal(events[0].getType(), "m.room.create");
            assert.equal(new Set(events.map((event) => event.getId())).size, events.length);
            assert.deepEqual(c.bodies(room).slice(0, early.length), early);
            assert.equal(c.bodies(room).at(-1), "two, Bob");
            assert.equal(room.findEventById(first).getContent().body, early[0]);
        },
        "catch up after a time away": async () => {
            bob.stopClient();
            const missed = Array.from({ length: 30 }, (_, i) => `missed ${i + 1}`);
            for (const body of missed) await c.say(alice, roomId, body);
            // The gap is there only when bob's node has everything before he looks.
            const newest = () => bob.http.authedRequest("GET", `/rooms/${encodeURIComponent(roomId)}/messages`, { dir: "b", limit: "1" });
            await c.untilTrue("the newest message at bob's node", async () => (await newest()).chunk[0]?.content.body === missed.at(-1));
            await c.start(bob);
            const room = bob.getRoom(roomId);
            await c.until("the newest message", bob, c.RoomEvent.Timeline, () => c.bodies(room).at(-1) === missed.at(-1));
            assert.ok(c.bodies(room).length < missed.length, "the server should not have sent everything at once");
            const came = () => c.bodies(room).filter((body) => body.startsWith("missed"));
            for (let pages = 0; came().length < missed.length; pages++) {
                assert.ok(pages < 10, `only ${came()} came`);
                await bob.scrollback(room, 10);
            }
            assert.deepEqual(came(), missed);
        },
        "a name changes": async () => {
            await bob.setDisplayName("Bob of the shop");
            const name = () => alice.getRoom(roomId).getMember(bob.getUserId()).name === "Bob of the shop";
            await c.until("the name", alice, c.RoomMemberEvent.Name, name);
        },
        "leave": async () => {
            await bob.leave(roomId);
            await c.inRoom(bob, roomId, "leave");
            await c.state(alice, roomId, "m.room.member", bob.getUserId(), (content) => content.membership === "leave");
            assert.deepEqual((await bob.getJoinedRooms()).joined_rooms, []);
            await c.refused(bob.sendTextMessage(roomId, "still here?"), "M_FORBIDDEN", 403);
            await bob.forget(roomId);
            assert.equal(bob.getRoom(roomId), null);
        },
        "find the room in the other node's directory and come back": async () => {
            const alias = `#orders-${process.pid}:${alice.getDomain()}`;
            await alice.createAlias(alias, roomId);
            await alice.sendStateEvent(roomId, "m.room.join_rules", { join_rule: "public" });
            await alice.setRoomDirectoryVisibility(roomId, "public");
            const { chunk } = await bob.publicRooms({ server: alice.getDomain(), filter: { generic_search_term: "4711" } });
            assert.deepEqual(chunk.map((room) => room.room_id), [roomId]);
            assert.equal((await bob.getRoomIdForAlias(alias)).room_id, roomId);
            await bob.joinRoom(alias);
            await c.inRoom(bob, roomId, "join");
            await c.seen(alice, roomId, await c.say(bob, roomId, "back again"));
        },
        "kick, ban, unban": async () => {
            const join = () => bob.joinRoom(roomId, { viaServers: [alice.getDomain()] });
            await alice.kick(roomId, bob.getUserId(), "mind the tone");
            const room = await c.inRoom(bob, roomId, "leave");
            assert.equal(room.getMember(bob.getUserId()).events.member.getContent().reason, "mind the tone");
            await join();
            await c.inRoom(bob, roomId, "join");
            await alice.ban(roomId, bob.getUserId());
            await c.inRoom(bob, roomId, "ban");
            await c.refused(join(), "M_FORBIDDEN", 403);
            await alice.unban(roomId, bob.getUserId());
            await join();
            await c.inRoom(bob, roomId, "join");
        },
        "log out": async () => {
            await bob.logout(true);
            await c.refused(bob.whoami(), "M_UNKNOWN_TOKEN", 401);
        },
    });
});

// download fetches a file and a thumbnail as a client does: with its token, and never without.
async function download(client, mxc, file) {
    const authorised = { headers: { Authorization: `Bearer ${client.getAccessToken()}` } };
    const url = client.mxcUrlToHttp(mxc, undefined, undefined, undefined, false, true, true);
    const answer = await fetch(url, authorised);
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.get("content-type"), "image/png");
    assert.deepEqual(Buffer.from(await answer.arrayBuffer()), file);
    assert.equal((await fetch(url)).status, 401);
    const thumbnail = await fetch(client.mxcUrlToHttp(mxc, 32, 32, "scale", false, true, true), authorised);
    assert.equal(thumbnail.status, 200);
    assert.match(thumbnail.headers.get("content-type"), /^image\//);
    assert.ok((await thumbnail.arrayBuffer()).byteLength > 0);
}
