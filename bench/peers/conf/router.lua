-- Where a request goes: the shared rotation, or the owner that the sticky hash names.

local balancer = require "ngx.balancer"
local found, redis = pcall(require, "resty.redis")
if not found then
    redis = require "nginx.redis" -- Debian's name for it
end

local ROTATION, STICKY = "distributer:rotation", "distributer:sticky"
local POOL_SIZE, IDLE_MS, TIMEOUT_MS = 1024, 300000, 1000

-- KEYS: rotation, sticky. ARGV: item, the backends' URLs in order. Gives the owner, which is bound if there was none.
local BEGIN = [[
local owner = redis.call('HGET', KEYS[2], ARGV[1])
if not owner then
    local ticket = redis.call('INCR', KEYS[1])
    owner = ARGV[2 + (ticket - 1) % (#ARGV - 1)]
    redis.call('HSET', KEYS[2], ARGV[1], owner)
end
return owner
]]

local host, port, urls, begin_sha
local ports = {} -- of a backend, by its URL

local router = {}

function router.configure(redis_host, redis_port, backends)
    host, port, urls = redis_host, redis_port, backends
    for _, url in ipairs(urls) do
        ports[url] = tonumber(url:match(":(%d+)$"))
    end
end

local function connect()
    local link = redis:new()
    link:set_timeout(TIMEOUT_MS)
    local ok, reason = link:connect(host, port)
    if not ok then
        ngx.log(ngx.ERR, "redis: ", reason)
        return ngx.exit(503)
    end
    return link
end

local function checked(reply, reason)
    if not reply then
        ngx.log(ngx.ERR, "redis: ", reason)
        return ngx.exit(503)
    end
    return reply
end

local function next_url(link)
    local ticket = checked(link:incr(ROTATION))
    return urls[(ticket - 1) % #urls + 1]
end

local function begin(link, item)
    if not begin_sha then
        begin_sha = checked(link:script("load", BEGIN))
    end
    return checked(link:evalsha(begin_sha, 2, ROTATION, STICKY, item, unpack(urls)))
end

function router.rotate()
    local link = connect()
    ngx.ctx.url = next_url(link)
    link:set_keepalive(IDLE_MS, POOL_SIZE)
end

function router.follow()
    local link, ctx = connect(), ngx.ctx
    local method = ngx.req.get_method()
    if method == "POST" and ngx.var.uri == "/items/" then
        local item = ngx.var.arg_item_id
        ctx.created = item
        ctx.url = item and begin(link, item) or next_url(link)
    else
        local item = ngx.re.match(ngx.var.uri, "^/items/([0-9]+)$", "jo")
        local owner = item and checked(link:hget(STICKY, item[1]))
        if owner and owner ~= ngx.null then
            ctx.url = owner
            ctx.deleted = method == "DELETE" and item[1] or nil
        else
            ctx.url = next_url(link)
        end
    end
    link:set_keepalive(IDLE_MS, POOL_SIZE)
end

function router.balance()
    local ok, reason = balancer.set_current_peer("127.0.0.1", ports[ngx.ctx.url])
    if not ok then
        ngx.log(ngx.ERR, "balancer: ", reason)
        return ngx.exit(500)
    end
end

local function unbind(_, item)
    local link = connect()
    link:hdel(STICKY, item)
    link:set_keepalive(IDLE_MS, POOL_SIZE)
end

-- A create that failed leaves no binding, nor does a delete that succeeded.
function router.settle()
    local ctx, succeeded = ngx.ctx, ngx.status < 300
    local item = not succeeded and ngx.status ~= 400 and ctx.created or succeeded and ctx.deleted
    if item then
        ngx.timer.at(0, unbind, item)
    end
end

return router
