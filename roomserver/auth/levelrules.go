package auth

// powerLevels is the rule for m.room.power_levels, sent by somebody of the level.
func (c *check) powerLevels(level int64) error {
	next, err := parseLevels(c.e)
	if err != nil {
		return err
	}
	for creator := range c.p.creators {
		if _, listed := next.users[creator]; listed {
			return refuse("a creator's power cannot be set")
		}
	}
	if c.p.levels == nil {
		return nil
	}
	now := c.p.powers.l
	for i, name := range scalarNames {
		changed := now.present[i] != next.present[i] || now.scalars[i] != next.scalars[i]
		if changed && (now.present[i] && now.scalars[i] > level || next.present[i] && next.scalars[i] > level) {
			return refuse("%q is above the sender's level", name)
		}
	}
	if !mayChange(now.events, next.events, level) {
		return refuse("a changed level in \"events\" is above the sender's")
	}
	if c.v.NotificationLevels && !mayChange(now.notifications, next.notifications, level) {
		return refuse("a changed level in \"notifications\" is above the sender's")
	}
	return c.userLevels(now.users, next.users, level)
}

// mayChange says whether no changed or removed level, and no changed or added one, is above the sender's.
func mayChange(now, next map[string]int64, level int64) bool {
	for key, old := range now {
		if value, kept := next[key]; old > level && (!kept || value != old) {
			return false
		}
	}
	for key, value := range next {
		if old, had := now[key]; value > level && (!had || value != old) {
			return false
		}
	}
	return true
}

// userLevels lets nobody lower a user of the own level or above, except oneself, nor raise anybody above oneself.
func (c *check) userLevels(now, next map[string]int64, level int64) error {
	for user, old := range now {
		value, kept := next[user]
		if user != c.e.Sender() && old >= level && (!kept || value != old) {
			return refuse("the level of another user is not below the sender's")
		}
	}
	for user, value := range next {
		if old, had := now[user]; value > level && (!had || value != old) {
			return refuse("a user's new level is above the sender's")
		}
	}
	return nil
}
