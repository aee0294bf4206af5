%%% Two kindnesses to today's clients that ejabberd 23.01 has not yet, both about PEP (XEP-0163).
%%%
%%% Publish options (XEP-0060 §7.1.5): ejabberd knows access_model and persist_items and refuses all others, but
%%% OMEMO (XEP-0384) and bookmarks (XEP-0402) need max_items and send_last_published_item. Here the others are
%%% made true by creating the node with them, or compared with the node that is there, and taken out.
%%%
%%% Avatars: a vCard without a photo makes mod_avatar publish "no avatar" even if there never was one, which
%%% creates that node with the default access, and the client's own first avatar then conflicts with it.
-module(roost_publish).

-export([start/1, stop/1, sent/1, vcard_set/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").
-include("pubsub.hrl").

-define(KNOWN, [<<"FORM_TYPE">>, <<"pubsub#access_model">>, <<"pubsub#persist_items">>]).
-define(AVATAR, <<"urn:xmpp:avatar:metadata">>).

start(Host) ->
    ejabberd_hooks:add(user_send_packet, Host, ?MODULE, sent, 10),
    ejabberd_hooks:add(vcard_iq_set, Host, ?MODULE, vcard_set, 99).

stop(Host) ->
    ejabberd_hooks:delete(user_send_packet, Host, ?MODULE, sent, 10),
    ejabberd_hooks:delete(vcard_iq_set, Host, ?MODULE, vcard_set, 99).

vcard_set(#iq{from = From, sub_els = [#vcard_temp{photo = undefined}]} = Iq) ->
    case node_of(jid:tolower(jid:remove_resource(From)), ?AVATAR) of
        none -> {stop, Iq}; % mod_avatar is the only one behind
        _ -> Iq
    end;
vcard_set(Answer) ->
    Answer.

sent({#iq{type = set, from = From, to = To, sub_els = [Element]} = Iq, State} = Sent) ->
    case xmpp:get_name(Element) =:= <<"pubsub">> andalso jid:remove_resource(From) =:= jid:remove_resource(To) andalso
        decoded(Element)
    of
        #pubsub{publish = #ps_publish{node = Node}, publish_options = #xdata{fields = Fields} = Form} = PubSub ->
            case [F || F <- Fields, not lists:member(F#xdata_field.var, ?KNOWN)] of
                [] ->
                    Sent;
                _ ->
                    Kept = [F || F <- Fields, lists:member(F#xdata_field.var, ?KNOWN)],
                    Less = PubSub#pubsub{publish_options = Form#xdata{fields = Kept}},
                    meet(jid:tolower(jid:remove_resource(From)), From, Node, Fields, {Iq#iq{sub_els = [Less]}, State}, Sent)
            end;
        _ ->
            Sent
    end;
sent(Sent) ->
    Sent.

decoded(Element) ->
    try xmpp:decode(Element) catch _:_ -> false end.

%% Options that ejabberd's nodes do not have at all stay in, for ejabberd to refuse.
meet(Owner, From, Node, Fields, Changed, Unchanged) ->
    NoType = lists:keydelete(<<"FORM_TYPE">>, #xdata_field.var, Fields),
    case try pubsub_node_config:decode(NoType) catch _:_ -> unknown end of
        unknown ->
            Unchanged;
        Wanted ->
            case node_of(Owner, Node) of
                none ->
                    create(Owner, From, Node, Wanted),
                    Changed;
                #pubsub_node{options = Options} ->
                    case lists:all(fun(Option) -> lists:member(Option, Options) end, Wanted) of
                        true -> Changed;
                        false -> conflict(Unchanged)
                    end
            end
    end.

create({_, Host, _} = Owner, From, Node, Wanted) ->
    Access = mod_pubsub_opt:access_createnode(Host),
    mod_pubsub:create_node(Owner, Host, Node, From, <<"pep">>, Access, Wanted).

conflict({Iq, State}) ->
    Error = mod_pubsub:extended_error(xmpp:err_conflict(), mod_pubsub:err_precondition_not_met()),
    ejabberd_router:route_error(Iq, Error),
    {stop, {drop, State}}.

node_of(Owner, Node) ->
    case mod_pubsub:tree_action(Owner, get_node, [Owner, Node]) of
        #pubsub_node{} = Found -> Found;
        _ -> none
    end.
