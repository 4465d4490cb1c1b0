package account

import "testing"

func TestInviteRules(t *testing.T) {
	for _, c := range []struct {
		kind, content, inviter string
		want                   Verdict
	}{
		{typeInvites, `{"default_action":"block"}`, "@a:b", InviteBlocked},
		{typeInvitesUnstable, `{"default_action":"block"}`, "@a:b", InviteBlocked},
		{typeInvites, `{"default_action":"allow"}`, "@a:b", InviteWelcome},
		{typeInvites, `{"default_action":7}`, "@a:b", InviteWelcome},
		{typeInvites, `{"blocked_users":["*"]}`, "@a:b", InviteWelcome},
		{typeInvites, `[]`, "@a:b", InviteWelcome},
		{typeInvites, ``, "@a:b", InviteWelcome},
		{typeInviteFilter, `{"blocked_users":["@a:*"]}`, "@a:b", InviteBlocked},
		{typeInviteFilter, `{"blocked_users":["@a:*"],"ignored_users":["@a:b"]}`, "@a:b", InviteHidden},
		{typeInviteFilter, `{"blocked_users":["@a:*"],"allowed_users":["@?:b"],"blocked_servers":["*"]}`, "@a:b", InviteWelcome},
		{typeInviteFilter, `{"blocked_servers":["b"],"ignored_servers":["c"]}`, "@b:c", InviteHidden},
		{typeInviteFilter, `{"blocked_servers":["b:1"]}`, "@a:b:1", InviteBlocked},
		{typeInviteFilter, `{"blocked_servers":["b"],"allowed_servers":["b"]}`, "@a:b", InviteWelcome},
		{typeInviteFilter, `{"blocked_servers":"b","blocked_users":{"a":1}}`, "@a:b", InviteWelcome},
	} {
		i := newInviting()
		i.set("@me:here", c.kind, []byte(c.content))
		if got := i.verdict("@me:here", c.inviter); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.kind, c.content, got, c.want)
		}
		i.set("@me:here", c.kind, nil)
		if len(i.of) != 0 {
			t.Error("what is gone is remembered")
		}
	}
}

func FuzzInviteRules(f *testing.F) {
	f.Add([]byte(`{"default_action":"block","blocked_users":["*",null,7],"allowed_servers":null}`), "@a:b")
	f.Fuzz(func(t *testing.T, content []byte, inviter string) {
		for _, kind := range inviteTypes {
			if r := parseInviteRules(kind, content); r != nil {
				r.verdict(inviter)
			}
		}
	})
}
