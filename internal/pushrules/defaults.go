package pushrules

import (
	"encoding/json"
	"strings"
)

// Class is the set of server-default rules that an event matches, those that
// depend on the user left out. Classes are stored: bits never change meaning.
type Class int64

const (
	classNotice Class = 1 << iota
	classMember
	classRoomMention
	classTombstone
	classReaction
	classServerACL
	classEdit
	classCall
	classEncryptedDirect
	classDirect
	classMessage
	classEncrypted
	classPollResponse
	classPollStartDirect
	classPollEndDirect
	classPollStart
	classPollEnd
)

// countable reports whether a default rule can make events of this class notify;
// only such events have running totals.
func (c Class) countable() bool {
	const notifying = classRoomMention | classTombstone | classCall |
		classEncryptedDirect | classDirect | classMessage | classEncrypted |
		classPollStartDirect | classPollEndDirect | classPollStart | classPollEnd
	return c&notifying != 0
}

// owner stands for the user's id in the text of the default rules.
const owner = "%OWNER%"

// defaultRule is a server-default rule. conditions and actions are JSON.
type defaultRule struct {
	id         string
	kind       Kind
	class      Class // zero for rules that depend on the user
	disabled   bool
	conditions string
	actions    string
}

// master has a higher priority than every rule of the user.
const master = ".m.rule.master"

// defaultRules are the predefined rules, in order (Client-Server API,
// "Predefined Rules").
var defaultRules = []defaultRule{
	{id: master, kind: Override, disabled: true,
		conditions: `[]`, actions: `[]`},
	// For clients that decide by themselves what an encrypted event is to the user:
	// off until the user turns it on (MSC4028).
	{id: ".org.matrix.msc4028.encrypted_event", kind: Override, class: classEncrypted, disabled: true,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.room.encrypted"}]`,
		actions:    `["notify"]`},
	{id: ".m.rule.suppress_notices", kind: Override, class: classNotice,
		conditions: `[{"kind":"event_match","key":"content.msgtype","pattern":"m.notice"}]`,
		actions:    `[]`},
	{id: ".m.rule.invite_for_me", kind: Override,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.room.member"},` +
			`{"kind":"event_match","key":"content.membership","pattern":"invite"},` +
			`{"kind":"event_match","key":"state_key","pattern":"` + owner + `"}]`,
		actions: `["notify",{"set_tweak":"sound","value":"default"}]`},
	{id: ".m.rule.member_event", kind: Override, class: classMember,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.room.member"}]`,
		actions:    `[]`},
	{id: ".m.rule.is_user_mention", kind: Override,
		conditions: `[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"` + owner + `"}]`,
		actions:    `["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]`},
	{id: ".m.rule.is_room_mention", kind: Override, class: classRoomMention,
		conditions: `[{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true},` +
			`{"kind":"sender_notification_permission","key":"room"}]`,
		actions: `["notify",{"set_tweak":"highlight"}]`},
	{id: ".m.rule.tombstone", kind: Override, class: classTombstone,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.room.tombstone"},` +
			`{"kind":"event_match","key":"state_key","pattern":""}]`,
		actions: `["notify",{"set_tweak":"highlight"}]`},
	{id: ".m.rule.reaction", kind: Override, class: classReaction,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.reaction"}]`,
		actions:    `[]`},
	{id: ".m.rule.room.server_acl", kind: Override, class: classServerACL,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.room.server_acl"},` +
			`{"kind":"event_match","key":"state_key","pattern":""}]`,
		actions: `[]`},
	{id: ".m.rule.suppress_edits", kind: Override, class: classEdit,
		conditions: `[{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}]`,
		actions:    `[]`},
	// Polls and their end notify like messages, votes do not (MSC3930).
	{id: ".org.matrix.msc3930.rule.poll_response", kind: Override, class: classPollResponse,
		conditions: `[{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.response"}]`,
		actions:    `[]`},
	{id: ".m.rule.call", kind: Underride, class: classCall,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.call.invite"}]`,
		actions:    `["notify",{"set_tweak":"sound","value":"ring"}]`},
	{id: ".m.rule.encrypted_room_one_to_one", kind: Underride, class: classEncryptedDirect,
		conditions: `[{"kind":"room_member_count","is":"2"},` +
			`{"kind":"event_match","key":"type","pattern":"m.room.encrypted"}]`,
		actions: `["notify",{"set_tweak":"sound","value":"default"}]`},
	{id: ".m.rule.room_one_to_one", kind: Underride, class: classDirect,
		conditions: `[{"kind":"room_member_count","is":"2"},` +
			`{"kind":"event_match","key":"type","pattern":"m.room.message"}]`,
		actions: `["notify",{"set_tweak":"sound","value":"default"}]`},
	{id: ".m.rule.message", kind: Underride, class: classMessage,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.room.message"}]`,
		actions:    `["notify"]`},
	{id: ".m.rule.encrypted", kind: Underride, class: classEncrypted,
		conditions: `[{"kind":"event_match","key":"type","pattern":"m.room.encrypted"}]`,
		actions:    `["notify"]`},
	{id: ".org.matrix.msc3930.rule.poll_start_one_to_one", kind: Underride, class: classPollStartDirect,
		conditions: `[{"kind":"room_member_count","is":"2"},` +
			`{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.start"}]`,
		actions: `["notify",{"set_tweak":"sound","value":"default"}]`},
	{id: ".org.matrix.msc3930.rule.poll_start", kind: Underride, class: classPollStart,
		conditions: `[{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.start"}]`,
		actions:    `["notify"]`},
	{id: ".org.matrix.msc3930.rule.poll_end_one_to_one", kind: Underride, class: classPollEndDirect,
		conditions: `[{"kind":"room_member_count","is":"2"},` +
			`{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.end"}]`,
		actions: `["notify",{"set_tweak":"sound","value":"default"}]`},
	{id: ".org.matrix.msc3930.rule.poll_end", kind: Underride, class: classPollEnd,
		conditions: `[{"kind":"event_match","key":"type","pattern":"org.matrix.msc3381.poll.end"}]`,
		actions:    `["notify"]`},
}

// conditionsFor is the rule's conditions as the user sees them.
func (d *defaultRule) conditionsFor(user string) json.RawMessage {
	if !strings.Contains(d.conditions, owner) {
		return json.RawMessage(d.conditions)
	}
	quoted, err := json.Marshal(user)
	if err != nil {
		return json.RawMessage(d.conditions)
	}
	return json.RawMessage(strings.ReplaceAll(d.conditions, `"`+owner+`"`, string(quoted)))
}

// findDefault returns the default rule of a kind with an id, or nil.
func findDefault(k Kind, id string) *defaultRule {
	for i := range defaultRules {
		if d := &defaultRules[i]; d.id == id && d.kind == k {
			return d
		}
	}
	return nil
}
