package account

import "knock/internal/sqldb"

// The statements of this package. Times are milliseconds.
var (
	userInsert = sqldb.Register("account.userInsert", `INSERT INTO users
		(localpart, password, created, admin, guest, deactivated, erased, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`)
	userExists = sqldb.Register("account.userExists", `SELECT created FROM users WHERE localpart = $1`)
	userRow    = sqldb.Register("account.userRow",
		`SELECT password, created, admin, guest, deactivated, erased, expires FROM users WHERE localpart = $1`)
	userPassword   = sqldb.Register("account.userPassword", `UPDATE users SET password = $2 WHERE localpart = $1`)
	userAdmin      = sqldb.Register("account.userAdmin", `UPDATE users SET admin = $2 WHERE localpart = $1`)
	userDeactivate = sqldb.Register("account.userDeactivate",
		`UPDATE users SET deactivated = $2, erased = $3, password = $4, erased_pos = $5 WHERE localpart = $1`)
	usersErased = sqldb.Register("account.usersErased", `SELECT localpart, erased_pos FROM users WHERE erased <> 0`)

	userStandings = sqldb.Register("account.userStandings",
		`SELECT localpart, locked, suspended FROM users WHERE locked <> 0 OR suspended <> 0`)
	userStanding    = sqldb.Register("account.userStanding", `SELECT locked, suspended FROM users WHERE localpart = $1`)
	userSetStanding = sqldb.Register("account.userSetStanding",
		`UPDATE users SET locked = $2, suspended = $3 WHERE localpart = $1`)

	expirySet = sqldb.Register("account.expirySet",
		`UPDATE users SET expires = $2, reminded = 0, renewal = NULL WHERE localpart = $1`)
	expiryNone = sqldb.Register("account.expiryNone", `SELECT localpart FROM users WHERE expires = 0 AND admin = 0
		AND guest = 0 AND deactivated = 0 AND localpart > $1 ORDER BY localpart LIMIT $2`)
	people = sqldb.Register("account.people", `SELECT localpart FROM users WHERE guest = 0 AND deactivated = 0
		AND localpart > $1 ORDER BY localpart LIMIT $2`)
	expiryDue = sqldb.Register("account.expiryDue", `SELECT localpart FROM users WHERE expires > 0 AND expires <= $1
		AND reminded = 0 AND deactivated = 0 AND admin = 0 ORDER BY expires`)
	renewalSet  = sqldb.Register("account.renewalSet", `UPDATE users SET renewal = $2 WHERE localpart = $1`)
	renewalRow  = sqldb.Register("account.renewalRow", `SELECT localpart FROM users WHERE renewal = $1 AND deactivated = 0`)
	remindedSet = sqldb.Register("account.remindedSet", `UPDATE users SET reminded = $2 WHERE localpart = $1`)

	deviceInsert = sqldb.Register("account.deviceInsert", `INSERT INTO devices
		(nid, localpart, device_id, display_name, created, last_seen_ts, last_seen_ip)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`)
	deviceRow = sqldb.Register("account.deviceRow", `SELECT nid, device_id, display_name, last_seen_ts, last_seen_ip
		FROM devices WHERE localpart = $1 AND device_id = $2`)
	deviceList = sqldb.Register("account.deviceList", `SELECT nid, device_id, display_name, last_seen_ts, last_seen_ip
		FROM devices WHERE localpart = $1 ORDER BY nid`)
	deviceNumbers = sqldb.Register("account.deviceNumbers", `SELECT nid FROM devices WHERE localpart = $1`)
	deviceByIDs   = sqldb.Register("account.deviceByIDs",
		`SELECT nid FROM devices WHERE localpart = $1 AND device_id = ANY($2::bytea[])`)
	deviceRename = sqldb.Register("account.deviceRename",
		`UPDATE devices SET display_name = $3 WHERE localpart = $1 AND device_id = $2`)
	deviceSeen = sqldb.Register("account.deviceSeen",
		`UPDATE devices SET last_seen_ts = $2, last_seen_ip = $3 WHERE nid = $1`)
	deviceDelete = sqldb.Register("account.deviceDelete",
		`DELETE FROM devices WHERE nid = ANY($1::bigint[]) RETURNING device_id`)
	deviceNames = sqldb.Register("account.deviceNames",
		`SELECT localpart, device_id, display_name FROM devices WHERE localpart = ANY($1::bytea[])`)

	tokenInsert = sqldb.Register("account.tokenInsert", `INSERT INTO tokens
		(nid, device, access, refresh, expires, refresh_expires, parent) VALUES ($1, $2, $3, $4, $5, $6, $7)`)
	tokenByAccess = sqldb.Register("account.tokenByAccess", `SELECT t.nid, t.device, t.expires, t.parent, d.device_id,
		d.localpart, u.admin, u.guest, u.expires FROM tokens t JOIN devices d ON d.nid = t.device
		JOIN users u ON u.localpart = d.localpart WHERE t.access = $1`)
	tokenByRefresh = sqldb.Register("account.tokenByRefresh", `SELECT t.nid, t.device, t.refresh_expires, d.device_id,
		d.localpart FROM tokens t JOIN devices d ON d.nid = t.device WHERE t.refresh = $1`)
	tokenSettle = sqldb.Register("account.tokenSettle", `UPDATE tokens SET parent = $2 WHERE nid = $1`)
	tokenOthers = sqldb.Register("account.tokenOthers",
		`DELETE FROM tokens WHERE device = $1 AND nid <> $2 RETURNING access`)
	tokensOf = sqldb.Register("account.tokensOf",
		`DELETE FROM tokens WHERE device = ANY($1::bigint[]) RETURNING access`)
	tokensSelect = sqldb.Register("account.tokensSelect",
		`SELECT t.access FROM tokens t JOIN devices d ON d.nid = t.device WHERE d.localpart = $1`)

	loginTokenInsert = sqldb.Register("account.loginTokenInsert",
		`INSERT INTO login_tokens (hash, localpart, expires, issuer, sid) VALUES ($1, $2, $3, $4, $5)`)
	loginTokenTake = sqldb.Register("account.loginTokenTake",
		`DELETE FROM login_tokens WHERE hash = $1 RETURNING localpart, expires, issuer, sid`)
	loginTokenPrune  = sqldb.Register("account.loginTokenPrune", `DELETE FROM login_tokens WHERE expires <= $1`)
	loginTokenDelete = sqldb.Register("account.loginTokenDelete", `DELETE FROM login_tokens WHERE localpart = $1`)

	termsInsert = sqldb.Register("account.termsInsert", `INSERT INTO accepted_terms (localpart, policy, version, accepted)
		VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)

	regInsert = sqldb.Register("account.regInsert", `INSERT INTO registration_tokens
		(token, uses_allowed, completed, expires, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`)
	regRow = sqldb.Register("account.regRow",
		`SELECT token, uses_allowed, completed, expires FROM registration_tokens WHERE token = $1`)
	regList = sqldb.Register("account.regList",
		`SELECT token, uses_allowed, completed, expires FROM registration_tokens ORDER BY created, token`)
	regUse    = sqldb.Register("account.regUse", `UPDATE registration_tokens SET completed = $2 WHERE token = $1`)
	regDelete = sqldb.Register("account.regDelete", `DELETE FROM registration_tokens WHERE token = $1`)

	profileAll = sqldb.Register("account.profileAll",
		`SELECT field, value FROM profiles WHERE localpart = $1 AND length(value) > 0`)
	profilesOf = sqldb.Register("account.profilesOf",
		`SELECT localpart, field, value FROM profiles WHERE localpart = ANY($1::bytea[]) AND length(value) > 0`)
	profilesSince = sqldb.Register("account.profilesSince",
		`SELECT localpart, field, value FROM profiles WHERE pos > $1 AND pos <= $2`)
	profileUpsert = sqldb.Register("account.profileUpsert", `INSERT INTO profiles (localpart, field, value, pos)
		VALUES ($1, $2, $3, $4) ON CONFLICT (localpart, field) DO UPDATE SET value = excluded.value, pos = excluded.pos`)
	profileDelete = sqldb.Register("account.profileDelete",
		`UPDATE profiles SET value = $3, pos = $4 WHERE localpart = $1 AND field = $2 AND length(value) > 0`)
	profilesDelete = sqldb.Register("account.profilesDelete",
		`UPDATE profiles SET value = $2, pos = $3 WHERE localpart = $1 AND length(value) > 0`)

	dataRow = sqldb.Register("account.dataRow",
		`SELECT content FROM account_data WHERE localpart = $1 AND room = $2 AND type = $3`)
	dataSize = sqldb.Register("account.dataSize",
		`SELECT COUNT(*), CAST(COALESCE(SUM(length(content)), 0) AS bigint) FROM account_data WHERE localpart = $1`)
	dataUpsert = sqldb.Register("account.dataUpsert", `INSERT INTO account_data (localpart, room, type, content, pos)
		VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (localpart, room, type) DO UPDATE SET content = excluded.content, pos = excluded.pos`)
	dataClear = sqldb.Register("account.dataClear", `UPDATE account_data SET content = $3, pos = $4
		WHERE localpart = $1 AND room = $3 AND type = ANY($2::bytea[]) AND content <> $3`)
	dataSince = sqldb.Register("account.dataSince", `SELECT room, type, content, pos FROM account_data
		WHERE localpart = $1 AND pos > $2 AND pos <= $3 ORDER BY pos`)
	dataDelete = sqldb.Register("account.dataDelete", `DELETE FROM account_data WHERE localpart = $1`)

	threepidList = sqldb.Register("account.threepidList",
		`SELECT medium, address, validated, added FROM threepids WHERE localpart = $1 ORDER BY added, address`)
	threepidRow    = sqldb.Register("account.threepidRow", `SELECT localpart FROM threepids WHERE medium = $1 AND address = $2`)
	threepidCount  = sqldb.Register("account.threepidCount", `SELECT COUNT(*) FROM threepids WHERE localpart = $1`)
	threepidInsert = sqldb.Register("account.threepidInsert", `INSERT INTO threepids
		(medium, address, localpart, validated, added) VALUES ($1, $2, $3, $4, $5)`)
	threepidDelete = sqldb.Register("account.threepidDelete",
		`DELETE FROM threepids WHERE medium = $1 AND address = $2 AND localpart = $3`)
	threepidsDelete = sqldb.Register("account.threepidsDelete", `DELETE FROM threepids WHERE localpart = $1`)
	bindingList     = sqldb.Register("account.bindingList",
		`SELECT medium, address, server FROM threepid_bindings WHERE localpart = $1 ORDER BY medium, address, server`)
	bindingCount  = sqldb.Register("account.bindingCount", `SELECT COUNT(*) FROM threepid_bindings WHERE localpart = $1`)
	bindingInsert = sqldb.Register("account.bindingInsert", `INSERT INTO threepid_bindings
		(localpart, medium, address, server) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	bindingDelete = sqldb.Register("account.bindingDelete", `DELETE FROM threepid_bindings
		WHERE localpart = $1 AND medium = $2 AND address = $3 AND server = $4`)
	bindingsDelete = sqldb.Register("account.bindingsDelete", `DELETE FROM threepid_bindings WHERE localpart = $1`)

	validationInsert = sqldb.Register("account.validationInsert", `INSERT INTO validations
		(sid, purpose, address, secret, token, attempt, wrong, next_link, validated, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`)
	validationRow = sqldb.Register("account.validationRow", `SELECT sid, purpose, address, secret, token, attempt, wrong,
		next_link, validated, expires FROM validations WHERE sid = $1`)
	validationFind = sqldb.Register("account.validationFind", `SELECT sid, purpose, address, secret, token, attempt, wrong,
		next_link, validated, expires FROM validations WHERE purpose = $1 AND address = $2 AND secret = $3`)
	validationRenew = sqldb.Register("account.validationRenew",
		`UPDATE validations SET token = $2, next_link = $3, expires = $4, wrong = 0 WHERE sid = $1`)
	validationAttempt = sqldb.Register("account.validationAttempt", `UPDATE validations SET attempt = $2 WHERE sid = $1`)
	validationWrong   = sqldb.Register("account.validationWrong", `UPDATE validations SET wrong = $2 WHERE sid = $1`)
	validationConfirm = sqldb.Register("account.validationConfirm",
		`UPDATE validations SET validated = $2, expires = $3 WHERE sid = $1`)
	validationDelete  = sqldb.Register("account.validationDelete", `DELETE FROM validations WHERE sid = $1`)
	validationsDelete = sqldb.Register("account.validationsDelete", `DELETE FROM validations WHERE purpose = $1 AND address = $2`)
	validationPrune   = sqldb.Register("account.validationPrune", `DELETE FROM validations WHERE expires <= $1`)

	externalRow = sqldb.Register("account.externalRow",
		`SELECT localpart FROM external_ids WHERE issuer = $1 AND subject = $2`)
	externalIssuers = sqldb.Register("account.externalIssuers",
		`SELECT issuer FROM external_ids WHERE localpart = $1 ORDER BY issuer`)
	sessionInsert  = sqldb.Register("account.sessionInsert", `INSERT INTO external_sessions (device, issuer, sid) VALUES ($1, $2, $3)`)
	sessionsDelete = sqldb.Register("account.sessionsDelete", `DELETE FROM external_sessions WHERE device = ANY($1::bigint[])`)
	sessionUsers   = sqldb.Register("account.sessionUsers", `SELECT DISTINCT d.localpart FROM external_sessions x
		JOIN devices d ON d.nid = x.device WHERE x.issuer = $1 AND x.sid = $2`)
	sessionDevices = sqldb.Register("account.sessionDevices", `SELECT d.nid FROM external_sessions x
		JOIN devices d ON d.nid = x.device WHERE d.localpart = $1 AND x.issuer = $2 AND ($3::bytea IS NULL OR x.sid = $3)`)
	sessionTokens     = sqldb.Register("account.sessionTokens", `DELETE FROM login_tokens WHERE localpart = $1 AND issuer = $2 AND ($3::bytea IS NULL OR sid = $3)`)
	sessionTokenUsers = sqldb.Register("account.sessionTokenUsers",
		`SELECT DISTINCT localpart FROM login_tokens WHERE issuer = $1 AND sid = $2`)

	externalList = sqldb.Register("account.externalList",
		`SELECT issuer, subject FROM external_ids WHERE localpart = $1 ORDER BY issuer`)
	externalDelete = sqldb.Register("account.externalDelete",
		`DELETE FROM external_ids WHERE localpart = $1 AND issuer = $2`)
	externalInsert = sqldb.Register("account.externalInsert",
		`INSERT INTO external_ids (issuer, subject, localpart, added) VALUES ($1, $2, $3, $4)`)

	openIDInsert = sqldb.Register("account.openIDInsert",
		`INSERT INTO openid_tokens (hash, localpart, expires) VALUES ($1, $2, $3)`)
	openIDRow    = sqldb.Register("account.openIDRow", `SELECT localpart, expires FROM openid_tokens WHERE hash = $1`)
	openIDPrune  = sqldb.Register("account.openIDPrune", `DELETE FROM openid_tokens WHERE expires <= $1`)
	openIDDelete = sqldb.Register("account.openIDDelete", `DELETE FROM openid_tokens WHERE localpart = $1`)
)

func scanBytes(r *sqldb.Rows) (b []byte, err error) { return b, r.Scan(&b) }
func scanInt(r *sqldb.Rows) (n int64, err error)    { return n, r.Scan(&n) }
