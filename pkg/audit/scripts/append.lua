-- Appends entries to the audit, and drops the oldest.
--
-- KEYS 1 audit (stream)
-- ARGV 1 how many entries to keep, about   2... one AuditRecord each
-- Returns nothing.
for n = 2, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'e', ARGV[n])
end
return redis.status_reply('OK')
