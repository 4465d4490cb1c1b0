package e2ee

import "knock/internal/sqldb"

// The statements about keys. Those about messages, lists and backups are with their code.
var (
	deviceKeysRow = sqldb.Register("e2ee.deviceKeysRow",
		`SELECT keys FROM e2ee_device_keys WHERE user_id = $1 AND device_id = $2`)
	deviceKeysOf = sqldb.Register("e2ee.deviceKeysOf",
		`SELECT user_id, device_id, keys, name FROM e2ee_device_keys WHERE user_id = ANY($1::bytea[])`)
	deviceKeysPut = sqldb.RegisterInsert("e2ee.deviceKeysPut",
		`INSERT INTO e2ee_device_keys (user_id, device_id, keys, name) VALUES`, 4,
		`ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys, name = excluded.name`)
	deviceKeysDelete = sqldb.Register("e2ee.deviceKeysDelete",
		`DELETE FROM e2ee_device_keys WHERE user_id = $1 AND device_id = ANY($2::bytea[]) RETURNING device_id`)
	deviceKeysClear = sqldb.Register("e2ee.deviceKeysClear", `DELETE FROM e2ee_device_keys WHERE user_id = $1`)

	batchInsert = sqldb.RegisterInsert("e2ee.batchInsert",
		`INSERT INTO e2ee_batches (nid, user_id, device_id, algorithm, total, used) VALUES`, 6, ``)
	batchKeysInsert = sqldb.RegisterInsert("e2ee.batchKeysInsert", `INSERT INTO e2ee_batch_keys (batch, data) VALUES`, 2, ``)
	batchesOf       = sqldb.Register("e2ee.batchesOf",
		`SELECT nid, algorithm, total, used FROM e2ee_batches WHERE user_id = $1 AND device_id = $2`)
	batchesOpen = sqldb.Register("e2ee.batchesOpen",
		`SELECT user_id, device_id, algorithm, MIN(nid) FROM e2ee_batches WHERE user_id = ANY($1::bytea[]) AND used < total
		GROUP BY user_id, device_id, algorithm`)
	batchesTake = sqldb.Register("e2ee.batchesTake",
		`UPDATE e2ee_batches SET used = used + $2::bigint WHERE nid = ANY($1::bigint[]) AND used < total
		RETURNING nid, user_id, device_id, algorithm, used`)
	batchKeysOf     = sqldb.Register("e2ee.batchKeysOf", `SELECT batch, data FROM e2ee_batch_keys WHERE batch = ANY($1::bigint[])`)
	batchesDelete   = sqldb.Register("e2ee.batchesDelete", `DELETE FROM e2ee_batches WHERE nid = ANY($1::bigint[])`)
	batchKeysDelete = sqldb.Register("e2ee.batchKeysDelete", `DELETE FROM e2ee_batch_keys WHERE batch = ANY($1::bigint[])`)
	batchesGone     = sqldb.Register("e2ee.batchesGone",
		`DELETE FROM e2ee_batches WHERE user_id = $1 AND device_id = ANY($2::bytea[]) RETURNING nid`)
	allBatchesDelete   = sqldb.Register("e2ee.allBatchesDelete", `DELETE FROM e2ee_batches`)
	allBatchKeysDelete = sqldb.Register("e2ee.allBatchKeysDelete", `DELETE FROM e2ee_batch_keys`)

	fallbackOf = sqldb.Register("e2ee.fallbackOf",
		`SELECT algorithm, key_id, key, used FROM e2ee_fallback WHERE user_id = $1 AND device_id = $2`)
	fallbackOfUsers = sqldb.Register("e2ee.fallbackOfUsers",
		`SELECT user_id, device_id, algorithm, key_id, key, used FROM e2ee_fallback WHERE user_id = ANY($1::bytea[])`)
	fallbackPut = sqldb.Register("e2ee.fallbackPut",
		`INSERT INTO e2ee_fallback (user_id, device_id, algorithm, key_id, key, used) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, key = excluded.key, used = excluded.used`)
	fallbackUse = sqldb.Register("e2ee.fallbackUse",
		`UPDATE e2ee_fallback SET used = $4 WHERE user_id = $1 AND device_id = $2 AND algorithm = $3`)
	fallbackDelete = sqldb.Register("e2ee.fallbackDelete",
		`DELETE FROM e2ee_fallback WHERE user_id = $1 AND device_id = ANY($2::bytea[])`)

	crossKeysOf = sqldb.Register("e2ee.crossKeysOf",
		`SELECT user_id, usage, data FROM e2ee_cross_keys WHERE user_id = ANY($1::bytea[])`)
	crossKeyPut = sqldb.Register("e2ee.crossKeyPut",
		`INSERT INTO e2ee_cross_keys (user_id, usage, public, data) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, usage) DO UPDATE SET public = excluded.public, data = excluded.data`)
	crossKeysDelete = sqldb.Register("e2ee.crossKeysDelete", `DELETE FROM e2ee_cross_keys WHERE user_id = $1`)

	signaturePut = sqldb.Register("e2ee.signaturePut",
		`INSERT INTO e2ee_signatures (signer, user_id, public, key_id, signature, pos) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (signer, user_id, public, key_id) DO UPDATE SET signature = excluded.signature, pos = excluded.pos`)
	signaturesBy = sqldb.Register("e2ee.signaturesBy",
		`SELECT user_id, public, key_id, signature FROM e2ee_signatures WHERE signer = $1 AND user_id = ANY($2::bytea[])`)
	signaturesByDelete = sqldb.Register("e2ee.signaturesByDelete", `DELETE FROM e2ee_signatures WHERE signer = $1`)
	signaturesOnDelete = sqldb.Register("e2ee.signaturesOnDelete",
		`DELETE FROM e2ee_signatures WHERE user_id = $1 AND public <> $2`)
	signaturesSince = sqldb.Register("e2ee.signaturesSince",
		`SELECT DISTINCT user_id FROM e2ee_signatures WHERE signer = $1 AND pos > $2 AND pos <= $3`)
)

// boolean is 0 or 1 as databases keep it.
func boolean(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func scanText(r *sqldb.Rows) (string, error) {
	var b []byte
	err := r.Scan(&b)
	return string(b), err
}

func scanNumber(r *sqldb.Rows) (n int64, err error) { return n, r.Scan(&n) }
