package redisstore

// RingKey is the key ring of the whole deployment: a string, the JSON of ringRecord. It belongs to no partition and has no TTL.
const RingKey = "berth:keyring"
