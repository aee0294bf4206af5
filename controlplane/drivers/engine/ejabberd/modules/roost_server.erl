%%% The server as a whole, for roost_control.
-module(roost_server).

-export([health/1, reload/1, usage/1, purge_dns_cache/1]).

health(_) ->
    {Uptime, _} = statistics(wall_clock),
    #{version => <<"ejabberd ", (ejabberd_option:version())/binary>>,
      uptime_s => Uptime / 1000,
      sessions => ejabberd_sm:get_vh_session_number(host())}.

reload(_) ->
    case ejabberd_config:reload() of
        ok -> true;
        Error -> throw({refused, unicode:characters_to_binary(ejabberd_config:format_error(Error))})
    end.

usage(_) ->
    Probe = gen_mod:get_module_opt(host(), mod_roost, probe_account),
    Online = lists:usort([U || {U, _, _} <- ejabberd_sm:get_vh_session_list(host()), U =/= Probe]),
    Uploads = gen_mod:get_module_opt(host(), mod_roost, uploads),
    #{accounts => number("SELECT count(*) FROM users") -
          case ejabberd_auth:user_exists(Probe, host()) of true -> 1; false -> 0 end,
      online => length(Online),
      rooms => length(roost_rooms:names()),
      archive_messages => number("SELECT count(*) FROM archive"),
      upload_bytes => filelib:fold_files(Uploads, ".*", true, fun(File, Sum) -> Sum + filelib:file_size(File) end, 0)}.

number(Query) ->
    {selected, _, [[Number]]} = ejabberd_sql:sql_query(host(), Query),
    if is_binary(Number) -> binary_to_integer(Number); true -> Number end.

purge_dns_cache(_) ->
    ok = inet_db:clear_cache(),
    true.

host() ->
    ejabberd_config:get_myname().
