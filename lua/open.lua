-- open: begin a generation of an account in Redis. It is the generation's refill 1, and empty.
-- Whatever Redis has of the account from an older epoch is not trusted, and goes.
--
-- KEYS as in prelude.lua
-- ARGV[1] epoch      integer  the shard's epoch
-- ARGV[2] gen        integer  the generation
-- ARGV[3] refill_no  integer  1
-- ARGV[4] status     text     active, grace, suspended or closed
-- ARGV[5] overdraft  integer  microcredits that may be spent beyond what is available
-- ARGV[6] reason     text     why it has that status, for the one who is refused; may be missing
-- ARGV[7] allowance  integer  microcredits it may use while Redis is away; may be missing
-- ARGV[8] mark       integer  microcredits; with less it has run low; 0 for none; may be missing
--
-- Returns {status, ...}, the first status that applies:
--   fenced    the account is of a newer epoch, or the epoch's stream is not there: this Redis, or
--             the shard in it, was emptied; nothing changed
--   stale     the account is of another generation; nothing changed
--   replayed  refill_no of the account; it is open already; nothing changed
--   applied   the account is there, with nothing available

local gen, refill_no, status, overdraft = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local reason, allowance, mark = ARGV[6] or '', ARGV[7] or 0, ARGV[8] or 0

local refusal = load_account()
if call('EXISTS', stream_key) == 0 then
  return { 'fenced' }
end
if refusal and refusal[1] == 'fenced' then
  if tonumber(call('HGET', account_key, 'epoch')) > tonumber(epoch) then
    return refusal
  end
end
if not refusal then
  if account.gen ~= tonumber(gen) then
    return { 'stale' }
  end
  return { 'replayed', account.refill_no }
end
call('UNLINK', account_key, grants_key, order_key, holds_key, expiry_key, answers_keys[0],
  answers_keys[1])
call('ZREM', sweep_key, account.name)
call('HSET', account_key,
  'epoch', epoch, 'gen', gen, 'refill_no', refill_no, 'seq', 0, 'status', status,
  'overdraft', overdraft, 'available', 0, 'held', 0, 'pool', 0, 'pool_held', 0,
  'head', '', 'head_left', 0, 'day', 0, 'reason', reason, 'next_expiry', int(NEVER),
  'allowance', allowance, 'mark', mark, 'rung', 0)
return { 'applied' }
