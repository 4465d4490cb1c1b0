package event

// DefaultVersion is the room version of rooms created without asking for one.
const DefaultVersion = "12"

// StateRes names a state resolution algorithm.
type StateRes uint8

// The state resolution algorithms: v1, v2 and v2.1 (room version 12).
const (
	StateResV1  StateRes = 1
	StateResV2  StateRes = 2
	StateResV21 StateRes = 21
)

// IDFormat says how event ids come to be.
type IDFormat uint8

// The event id formats: chosen by the sender ("$opaque:server"), the reference
// hash in standard base64 (version 3), the reference hash in URL-safe base64.
const (
	IDRandom IDFormat = iota + 1
	IDHash
	IDHashURL
)

// Version is what one room version prescribes. Values are shared and never change.
type Version struct {
	ID       string
	StateRes StateRes
	IDFormat IDFormat

	// References: prev_events and auth_events are [id, {"sha256": hash}] pairs (1, 2).
	References bool
	// StrictJSON: numbers must be integers within ±(2^53 − 1) (6 and later).
	StrictJSON bool
	// EnforceKeyValidity: signing keys must be valid at origin_server_ts (5 and later).
	EnforceKeyValidity bool
	// IntegerPowerLevels: power levels may not be strings (10 and later).
	IntegerPowerLevels bool
	// NotificationLevels: auth rules look at "notifications" in power levels (6 and later).
	NotificationLevels bool
	// AliasesAuth: m.room.aliases has an auth rule and keeps its content (1 to 5).
	AliasesAuth bool
	// RedactionAuth: the redact level is part of the auth rules (1, 2).
	RedactionAuth bool
	// Knock: join_rule "knock" (7 and later).
	Knock bool
	// Restricted: join_rule "restricted" (8 and later).
	Restricted bool
	// KnockRestricted: join_rule "knock_restricted" (10 and later).
	KnockRestricted bool
	// SenderIsCreator: m.room.create has no "creator" in its content (11 and later).
	SenderIsCreator bool
	// RedactsInContent: m.room.redaction has "redacts" in its content (11 and later).
	RedactsInContent bool
	// PrivilegedCreators: creators have infinite power (12).
	PrivilegedCreators bool
	// DomainlessRoomIDs: the room id is the create event's id with "!" (12).
	DomainlessRoomIDs bool

	redaction redaction
}

// HashIDs tells whether event ids are reference hashes (version 3 and later).
func (v *Version) HashIDs() bool { return v.IDFormat != IDRandom }

// GetVersion returns the room version with the given id.
func GetVersion(id string) (*Version, bool) {
	for _, v := range versions {
		if v.ID == id {
			return v, true
		}
	}
	return nil, false
}

// Versions returns the ids of all room versions, oldest first. All are stable.
func Versions() []string {
	ids := make([]string, len(versions))
	for i, v := range versions {
		ids[i] = v.ID
	}
	return ids
}

var versions = makeVersions()

// makeVersions builds the table as the specification does: each version is the
// one before with what it changed.
func makeVersions() []*Version {
	v := Version{
		StateRes: StateResV1, IDFormat: IDRandom, References: true,
		AliasesAuth: true, RedactionAuth: true, redaction: redactionV1,
	}
	steps := []func(){
		func() {},
		func() { v.StateRes = StateResV2 },
		func() { v.IDFormat, v.References, v.RedactionAuth = IDHash, false, false },
		func() { v.IDFormat = IDHashURL },
		func() { v.EnforceKeyValidity = true },
		func() {
			v.StrictJSON, v.NotificationLevels, v.AliasesAuth = true, true, false
			v.redaction = redactionV6
		},
		func() { v.Knock = true },
		func() { v.Restricted, v.redaction = true, redactionV8 },
		func() { v.redaction = redactionV9 },
		func() { v.IntegerPowerLevels, v.KnockRestricted = true, true },
		func() { v.SenderIsCreator, v.RedactsInContent, v.redaction = true, true, redactionV11 },
		func() { v.StateRes, v.PrivilegedCreators, v.DomainlessRoomIDs = StateResV21, true, true },
	}
	ids := []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}
	table := make([]*Version, len(steps))
	for i, step := range steps {
		step()
		w := v
		w.ID = ids[i]
		table[i] = &w
	}
	return table
}
