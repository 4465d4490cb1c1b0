package auth

import "github.com/tidwall/gjson"

// member is the rule for m.room.member.
func (c *check) member() error {
	target, isState := c.e.Key()
	content := c.e.ContentJSON()
	membership := gjson.GetBytes(content, "membership")
	if !isState || membership.Type != gjson.String {
		return refuse("m.room.member lacks its state key or membership")
	}
	if c.v.Restricted {
		via := gjson.GetBytes(content, "join_authorised_via_users_server")
		if via.Exists() && (via.Type != gjson.String || !looksLikeUserID(via.Str)) {
			return refuse("join_authorised_via_users_server is not a user id")
		}
	}
	switch membership.Str {
	case Join:
		return c.join(target)
	case Invite:
		return c.invite(target)
	case Leave:
		return c.leave(target)
	case Ban:
		return c.ban(target)
	case Knock:
		if c.v.Knock {
			return c.knock(target)
		}
	}
	return refuse("the membership is unknown")
}

func (c *check) join(target string) error {
	if c.afterCreate() && c.p.founder != "" && target == c.p.founder {
		return nil
	}
	if c.e.Sender() != target {
		return refuse("nobody joins for somebody else")
	}
	membership, rule := c.membership(target), c.p.joinRule
	if membership == Ban {
		return refuse("the user is banned")
	}
	invited := membership == Invite || membership == Join
	switch {
	case rule == "public":
		return nil
	case rule == "invite", rule == "knock" && c.v.Knock:
		if invited {
			return nil
		}
	case rule == "restricted" && c.v.Restricted, rule == "knock_restricted" && c.v.KnockRestricted:
		if invited {
			return nil
		}
		return c.restricted()
	}
	return refuse("the join rule does not let the user in")
}

// afterCreate says whether the only previous event is the room's m.room.create.
func (c *check) afterCreate() bool {
	prev := c.e.PrevEventIDs()
	return len(prev) == 1 && prev[0] == c.p.create.EventID()
}

// restricted lets a user in on the word of a member who may invite.
func (c *check) restricted() error {
	via := gjson.GetBytes(c.e.ContentJSON(), "join_authorised_via_users_server").Str
	if via == "" {
		return refuse("no member vouches for the restricted join")
	}
	if c.membership(via) != Join || c.p.powers.UserLevel(via) < c.p.powers.Invite() {
		return refuse("the member who vouches for the restricted join may not invite")
	}
	return nil
}

func (c *check) invite(target string) error {
	if invite := gjson.GetBytes(c.e.ContentJSON(), "third_party_invite"); invite.Exists() {
		return c.thirdPartyInvite(target, invite)
	}
	if c.membership(c.e.Sender()) != Join {
		return refuse("the sender is not in the room")
	}
	if m := c.membership(target); m == Join || m == Ban {
		return refuse("the user is in the room or banned")
	}
	if c.p.powers.UserLevel(c.e.Sender()) < c.p.powers.Invite() {
		return refuse("the sender may not invite")
	}
	return nil
}

func (c *check) leave(target string) error {
	sender := c.e.Sender()
	if sender == target {
		switch m := c.membership(target); {
		case m == Invite, m == Join, m == Knock && c.v.Knock:
			return nil
		}
		return refuse("the user is not in the room")
	}
	if c.membership(sender) != Join {
		return refuse("the sender is not in the room")
	}
	powers := c.p.powers
	level := powers.UserLevel(sender)
	if c.membership(target) == Ban && level < powers.Ban() {
		return refuse("the sender may not unban")
	}
	if level < powers.Kick() || powers.UserLevel(target) >= level {
		return refuse("the sender may not kick the user")
	}
	return nil
}

func (c *check) ban(target string) error {
	if c.membership(c.e.Sender()) != Join {
		return refuse("the sender is not in the room")
	}
	powers := c.p.powers
	if level := powers.UserLevel(c.e.Sender()); level < powers.Ban() || powers.UserLevel(target) >= level {
		return refuse("the sender may not ban the user")
	}
	return nil
}

func (c *check) knock(target string) error {
	if rule := c.p.joinRule; rule != "knock" && (rule != "knock_restricted" || !c.v.KnockRestricted) {
		return refuse("the join rule does not let anybody knock")
	}
	if c.e.Sender() != target {
		return refuse("nobody knocks for somebody else")
	}
	if m := c.membership(target); m == Ban || m == Invite || m == Join {
		return refuse("the user is invited, in the room, or banned")
	}
	return nil
}
