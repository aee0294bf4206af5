%%% XML of an instance's data: what is written is put together as text, since the database holds most of it as XML
%%% already; what is read has its prefixes resolved, which fast_xml leaves to its callers.
-module(roost_portable_xml).

-export([element/3, raw/1, text/1, parse/1, plain/2, namespace/2, attribute/2, attribute/3, named/2, same/2, canonical/1, cdata/1,
         stamp/1, microseconds/1, yes/1]).

-include_lib("p1_xmpp/include/xmpp.hrl").

%% Attributes without a value (none) are left out.
element(Name, Attributes, Content) ->
    [$<, Name, [[$\s, Key, "='", escaped(Value), $'] || {Key, Value} <- Attributes, Value =/= none],
     case iolist_size(Content) of 0 -> "/>"; _ -> [$>, Content, "</", Name, $>] end].

raw(Element) ->
    fxml:element_to_binary(Element).

text(Text) ->
    binary:replace(fxml:crypt(Text), <<"\r">>, <<"&#13;">>, [global]).

%% A reader makes a space of an attribute's line break unless it is written by number (XML 1.0 §3.3.3).
escaped(Value) ->
    lists:foldl(fun({What, By}, Text) -> binary:replace(Text, What, By, [global]) end, fxml:crypt(Value),
                [{<<"\n">>, <<"&#10;">>}, {<<"\r">>, <<"&#13;">>}, {<<"\t">>, <<"&#9;">>}]).

%% {ok, Element} without prefixes, or error.
parse(Xml) ->
    case fxml_stream:parse_element(Xml) of
        #xmlel{} = Element ->
            case binary:match(Xml, <<"xmlns:">>) of
                nomatch -> {ok, Element};
                _ -> resolved(Element)
            end;
        _ ->
            error
    end.

resolved(Element) ->
    try {ok, resolve(Element, #{}, <<>>, <<>>)} catch error:{badkey, _} -> error end.

%% Prefixes: those declared around it. Was, Is: the default namespace around it as it was read and as it is written.
resolve(#xmlel{name = Name, attrs = Attributes, children = Children}, Outer, OuterWas, Is) ->
    Prefixes = maps:merge(Outer, maps:from_list([{P, Uri} || {<<"xmlns:", P/binary>>, Uri} <- Attributes])),
    Was = proplists:get_value(<<"xmlns">>, Attributes, OuterWas),
    {Local, Own} = case binary:split(Name, <<":">>) of
                       [Prefix, Rest] -> {Rest, maps:get(Prefix, Prefixes)};
                       [_] -> {Name, Was}
                   end,
    Kept = [A || {Key, _} = A <- Attributes, Key =/= <<"xmlns">>, binary:match(Key, <<"xmlns:">>) =:= nomatch],
    Used = lists:usort([P || {Key, _} <- Kept, [P, _] <- [binary:split(Key, <<":">>)], P =/= <<"xml">>]),
    Declared = [{<<"xmlns:", P/binary>>, maps:get(P, Prefixes)} || P <- Used],
    Default = [{<<"xmlns">>, Own} || Own =/= Is],
    #xmlel{name = Local, attrs = Default ++ Declared ++ Kept,
           children = [case Child of
                           #xmlel{} -> resolve(Child, Prefixes, Was, Own);
                           _ -> Child
                       end || Child <- Children]}.

%% The element with its namespace written on it, for it to stand alone.
plain(#xmlel{attrs = Attributes} = Element, Around) ->
    Element#xmlel{attrs = lists:keystore(<<"xmlns">>, 1, Attributes, {<<"xmlns">>, namespace(Element, Around)})}.

namespace(#xmlel{attrs = Attributes}, Around) ->
    proplists:get_value(<<"xmlns">>, Attributes, Around).

attribute(Key, Element) ->
    attribute(Key, Element, <<>>).

attribute(Key, #xmlel{attrs = Attributes}, Default) ->
    proplists:get_value(Key, Attributes, Default).

named(Name, #xmlel{children = Children}) ->
    [Child || #xmlel{name = N} = Child <- Children, N =:= Name].

cdata(Element) ->
    fxml:get_tag_cdata(Element).

yes(Value) ->
    lists:member(Value, [<<"1">>, <<"true">>]).

%% Whether two texts of XML are the same but for the order of attributes.
same(One, One) -> true;
same(One, Other) -> canonical(One) =:= canonical(Other).

canonical(Xml) ->
    case parse(iolist_to_binary(Xml)) of
        {ok, Element} -> sorted(resolve(Element, #{}, <<>>, <<>>));
        error -> Xml
    end.

sorted(#xmlel{attrs = Attributes, children = Children} = Element) ->
    Element#xmlel{attrs = lists:sort(Attributes), children = [sorted(C) || C <- joined(Children)]};
sorted(Other) ->
    Other.

joined([{xmlcdata, One}, {xmlcdata, Other} | Rest]) -> joined([{xmlcdata, <<One/binary, Other/binary>>} | Rest]);
joined([{xmlcdata, <<>>} | Rest]) -> joined(Rest);
joined([Child | Rest]) -> [Child | joined(Rest)];
joined([]) -> [].

%% XEP-0082 from microseconds, with as many digits of a second as needed.
stamp(Microseconds) ->
    Text = calendar:system_time_to_rfc3339(Microseconds div 1000000, [{offset, "Z"}]),
    Whole = list_to_binary(lists:sublist(Text, length(Text) - 1)),
    case Microseconds rem 1000000 of
        0 ->
            <<Whole/binary, "Z">>;
        Part ->
            Digits = string:trim(io_lib:format("~6..0b", [Part]), trailing, "0"),
            <<Whole/binary, ".", (iolist_to_binary(Digits))/binary, "Z">>
    end.

%% error if it is no XEP-0082 time.
microseconds(Stamp) ->
    try xmpp_util:decode_timestamp(Stamp) of
        {Mega, Seconds, Micro} -> (Mega * 1000000 + Seconds) * 1000000 + Micro
    catch
        _:_ -> error
    end.
