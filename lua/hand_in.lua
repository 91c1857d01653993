-- hand_in: append usage events of older epochs from a sidecar's journal to the shard's stream, and
-- after the last of them the mark that these were all.
--
-- KEYS[1] fence_key   hash    the shard's fence
-- KEYS[2] stream_key  stream  of the shard's present epoch
-- ARGV[1] epoch       integer the shard's epoch, as the sidecar knows it
-- ARGV[2] mark        text    `<sidecar id> <epoch>` with the last part of a journal; or empty
-- ARGV[3] ...         text    events, as scripts once wrote them: at most some hundreds a call
--
-- Returns {status, ...}:
--   fenced    the shard is of another epoch; nothing changed
--   appended  the stream id of the last entry; empty when there was none

local fence_key, stream_key = KEYS[1], KEYS[2]
local epoch, mark = ARGV[1], ARGV[2]

if redis.call('HGET', fence_key, 'epoch') ~= epoch then
  return { 'fenced' }
end
local last = ''
for i = 3, #ARGV do
  last = redis.call('XADD', stream_key, '*', 'e', ARGV[i])
end
if mark ~= '' then
  last = redis.call('XADD', stream_key, '*', 'h', mark)
end
return { 'appended', last }
