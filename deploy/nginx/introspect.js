// judge answers nginx' auth_request by what /introspect says of the client's
// token (RFC 7662): 200 with the identity in headers, 401, 403, or 503 where
// nobody could tell, of which nginx makes a 500. It never looks inside a token.

// judge reads the scopes that the route demands from $introspectd_scopes,
// separated by spaces.
async function judge(r) {
    try {
        const decision = await decide(r); // njs 0.7 crashes on await among arguments
        answer(r, decision);
    } catch (e) {
        // Safety: whatever went wrong, nothing passes.
        r.error('no verdict of introspectd: ' + e.message);
        r.return(503);
    }
}

async function decide(r) {
    const lines = r.rawHeadersIn.filter(h => h[0].toLowerCase() === 'authorization').map(h => h[1]);
    if (lines.length === 0 || lines.length === 1 && !/^bearer( |$)/i.test(lines[0])) {
        return refusal(401, '');
    }
    // Safety: of two credentials the backend might believe the other one.
    const found = lines.length === 1 && /^bearer +([A-Za-z0-9._~+\/-]+=*)$/i.exec(lines[0]);
    if (!found) {
        return refusal(401, 'error="invalid_request"');
    }
    const told = await r.subrequest('/_introspectd/ask', { method: 'POST', body: 'token=' + encodeURIComponent(found[1]) });
    if (told.status !== 200) {
        throw new Error('it answered ' + told.status);
    }
    const claims = JSON.parse(told.responseText);
    // Safety: active is true and not merely something. A token that is bound to a
    // key (cnf) is good in the hands of one client alone, and nothing here has
    // asked it to show that key.
    if (claims.active !== true || claims.cnf !== undefined) {
        return refusal(401, 'error="invalid_token", error_description="The access token is invalid"');
    }
    const has = typeof claims.scope === 'string' ? claims.scope.split(' ') : [];
    const demanded = r.variables.introspectd_scopes || '';
    if (!demanded.split(' ').every(scope => scope === '' || has.includes(scope))) {
        return refusal(403, 'error="insufficient_scope", scope="' + demanded + '"');
    }
    const headers = {
        'X-Auth-Subject': text(claims.sub),
        'X-Auth-Issuer': text(claims.iss),
        'X-Auth-Client-Id': text(claims.client_id),
        'X-Auth-Username': text(claims.username),
        'X-Auth-Scope': text(claims.scope),
    };
    // Safety: a user is both of these together; half of one is nobody.
    if (!headers['X-Auth-Subject'] || !headers['X-Auth-Issuer']) {
        return refusal(401, 'error="invalid_token", error_description="The access token is invalid"');
    }
    return { status: 200, headers: headers };
}

function refusal(status, parameters) {
    return { status: status, headers: { 'X-Challenge': 'Bearer realm="introspectd"' + (parameters ? ', ' + parameters : '') } };
}

// text spells a claim so that no two are spelled alike, as /auth does: what is
// beyond ASCII, % and spaces at either end are percent-encoded. Safety: a line
// break would begin a header of the token's own, so control characters have no
// spelling at all.
function text(claim) {
    if (typeof claim !== 'string' || /[\x00-\x1f\x7f]/.test(claim)) {
        return '';
    }
    return claim.replace(/^ | $|[^\x20-\x7e]|%/g, c => c === ' ' ? '%20' : encodeURIComponent(c));
}

function answer(r, decision) {
    Object.keys(decision.headers).forEach(name => {
        if (decision.headers[name] !== '') {
            r.headersOut[name] = decision.headers[name];
        }
    });
    r.return(decision.status);
}

export default { judge };
