package redisstore

// RingKey is the key ring of the whole deployment: a string, the JSON of ringRecord. It belongs to no partition and has no TTL.
const RingKey = "berth:keyring"

// The revocations of the whole deployment. They share a slot, and have no TTL.
const (
	// revocationsKey is a hash of ids to "CREATED:EXPIRES:VERSION:" and the JSON of revocationRecord.
	revocationsKey = "berth:{revocations}:entries"
	// revocationExpiryKey is a zset of ids by the time, in µs, from which they are of no use.
	revocationExpiryKey = "berth:{revocations}:expiry"
	// revocationVersionKey is a string: the version of the list, which never goes back.
	revocationVersionKey = "berth:{revocations}:version"
)

// The API keys of the whole deployment, but for root keys. They share a slot, and have no TTL.
const (
	// apiKeysKey is a hash of the SHA-256 of keys to "CREATED:EXPIRES:" and the JSON of keyEntry.
	apiKeysKey = "berth:{apikeys}:keys" //nolint:gosec // the name of a key in Redis
	// apiKeyNamesKey is a hash of names to the SHA-256 of their keys.
	apiKeyNamesKey = "berth:{apikeys}:names" //nolint:gosec // the name of a key in Redis
	// apiKeyExpiryKey is a zset of names by the time, in µs, at which their keys expire.
	apiKeyExpiryKey = "berth:{apikeys}:expiry" //nolint:gosec // the name of a key in Redis
)
