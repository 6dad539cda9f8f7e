[ "acme" ]
