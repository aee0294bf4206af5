-- XEP-0455: says in service discovery where clients read of outages, which is never on this server.
-- Debian's prosody-modules have no mod_service_outage_status. What is there to be read is Roost's matter.

local dataforms = require "util.dataforms";

local layout = dataforms.new({
	{ name = "FORM_TYPE", var = "FORM_TYPE", type = "hidden", value = "urn:xmpp:sos:0" };
	{ name = "addresses", var = "external-status-addresses", type = "list-multi" };
});

local url = module:get_option_string("roost_outage_url", "");
if url ~= "" then
	module:add_extension(layout:form({ addresses = { url } }, "result"));
end
