package account

import (
	"encoding/json"
	"strings"
	"sync"

	"knock/internal/glob"
)

// Verdict is what a user wants done with an invite.
type Verdict int

// The verdicts, from the mildest.
const (
	InviteWelcome Verdict = iota
	InviteHidden          // accepted, and not shown to the user
	InviteBlocked         // refused with M_INVITE_BLOCKED
)

// The account data that says whose invites a user wants (Client-Server API, "Invite permission"), with the names of
// before and of MSC4155, which filters by inviter.
const (
	typeInvites         = "m.invite_permission_config"
	typeInvitesUnstable = "org.matrix.msc4380.invite_permission_config"
	typeInviteFilter    = "org.matrix.msc4155.invite_permission_config"
)

var inviteTypes = []string{typeInvites, typeInvitesUnstable, typeInviteFilter}

// inviting is what users who said something about invites said, by account data type.
type inviting struct {
	mu sync.RWMutex
	of map[string]map[string]*inviteRules
}

func newInviting() *inviting { return &inviting{of: map[string]map[string]*inviteRules{}} }

// set replaces what one type of a user's account data says.
func (i *inviting) set(userID, kind string, content []byte) {
	rules := parseInviteRules(kind, content)
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case rules == nil:
		delete(i.of[userID], kind)
		if len(i.of[userID]) == 0 {
			delete(i.of, userID)
		}
	case i.of[userID] == nil:
		i.of[userID] = map[string]*inviteRules{kind: rules}
	default:
		i.of[userID][kind] = rules
	}
}

func (i *inviting) verdict(userID, inviter string) Verdict {
	i.mu.RLock()
	defer i.mu.RUnlock()
	strictest := InviteWelcome
	for _, rules := range i.of[userID] {
		strictest = max(strictest, rules.verdict(inviter))
	}
	return strictest
}

// Bounds of MSC4155's lists: invites are compared with each entry.
const (
	maxInvitePatterns = 1000
	maxInvitePattern  = 255
)

// inviteRules are what one piece of account data says. Lists are asked in MSC4155's order; the first that names the
// inviter decides.
type inviteRules struct {
	lists []inviteList
	rest  Verdict
}

type inviteList struct {
	server   bool // compare with the inviter's server, not with the whole id
	patterns []string
	verdict  Verdict
}

func (r *inviteRules) verdict(inviter string) Verdict {
	_, server, _ := strings.Cut(inviter, ":")
	for _, list := range r.lists {
		subject := inviter
		if list.server {
			subject = server
		}
		for _, pattern := range list.patterns {
			if glob.Match(pattern, subject) {
				return list.verdict
			}
		}
	}
	return r.rest
}

// parseInviteRules returns nil for content that lets everybody invite. What it does not understand says nothing.
func parseInviteRules(kind string, content []byte) *inviteRules {
	var fields map[string]json.RawMessage
	if json.Unmarshal(content, &fields) != nil {
		return nil
	}
	r := &inviteRules{}
	if kind == typeInviteFilter {
		r.add(fields["allowed_users"], false, InviteWelcome)
		r.add(fields["ignored_users"], false, InviteHidden)
		r.add(fields["blocked_users"], false, InviteBlocked)
		r.add(fields["allowed_servers"], true, InviteWelcome)
		r.add(fields["ignored_servers"], true, InviteHidden)
		r.add(fields["blocked_servers"], true, InviteBlocked)
	} else if action := ""; json.Unmarshal(fields["default_action"], &action) == nil && action == "block" {
		r.rest = InviteBlocked
	}
	if len(r.lists) == 0 && r.rest == InviteWelcome {
		return nil
	}
	return r
}

func (r *inviteRules) add(raw json.RawMessage, server bool, verdict Verdict) {
	var entries []any
	if json.Unmarshal(raw, &entries) != nil {
		return
	}
	list := inviteList{server: server, verdict: verdict}
	for _, entry := range entries[:min(len(entries), maxInvitePatterns)] {
		if pattern, ok := entry.(string); ok && len(pattern) <= maxInvitePattern {
			list.patterns = append(list.patterns, pattern)
		}
	}
	if len(list.patterns) > 0 {
		r.lists = append(r.lists, list)
	}
}

// InviteVerdict tells what a local user wants done with an invite by inviter. Those whom the user ignores may invite and
// are not heard (Client-Server API, "Ignoring Users").
func (s *Service) InviteVerdict(userID, inviter string) Verdict {
	if inviter == s.o.Herald {
		return InviteWelcome
	}
	verdict := s.inviting.verdict(userID, inviter)
	if verdict == InviteWelcome && s.Ignores(userID, inviter) {
		return InviteHidden
	}
	return verdict
}

// BlocksInvite reports whether a local user's invites by inviter are to be refused.
func (s *Service) BlocksInvite(userID, inviter string) bool {
	return s.InviteVerdict(userID, inviter) == InviteBlocked
}

// HidesInvite reports whether an invite by inviter is not to be shown to a local user. It may be older than the wish to
// have none.
func (s *Service) HidesInvite(userID, inviter string) bool {
	return s.InviteVerdict(userID, inviter) != InviteWelcome
}
