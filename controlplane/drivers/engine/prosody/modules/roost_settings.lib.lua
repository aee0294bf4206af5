-- A function: what a room keeps in memory and on disk alike, in Roost's words.

return function (data)
	return {
		title = data.name or "";
		description = data.description or "";
		access = data.members_only and "members" or "open";
		moderated = data.moderated and true or false;
		anonymity = data.whois == "anyone" and "none" or "semi";
		listed = not data.hidden;
		persistent = data.persistent and true or false;
		language = data.language or "";
		archived = data.archiving ~= false;
	};
end;
