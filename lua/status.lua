-- status: set an account's status and overdraft limit, as a numbered refill.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch      integer  see prelude.lua
-- ARGV[2] gen        integer  the generation that the ledger lent to
-- ARGV[3] refill_no  integer  its number in the generation
-- ARGV[4] status     text     active, grace, suspended or closed
-- ARGV[5] overdraft  integer  microcredits that may be spent beyond what is available
-- ARGV[6] reason     text     why, for the one who is refused; may be missing
-- ARGV[7] allowance  integer  microcredits it may use while Redis is away; may be missing
--
-- Returns {status, ...}, the first status that applies:
--   stale     the account is of another generation; nothing changed
--   replayed  refill_no of the account; it has this one; nothing changed
--   gap       refill_no of the account; earlier ones are missing; nothing changed
--   applied   it is set

local gen, refill_no, status = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local overdraft, reason, allowance = tonumber(ARGV[5]), ARGV[6] or '', tonumber(ARGV[7] or 0)

local refusal = begin_refill(gen, refill_no)
if refusal then
  return refusal
end
account.status, account.overdraft, account.allowance = status, overdraft, allowance
call('HSET', account_key, 'reason', reason)
return finish({ 'applied' })
