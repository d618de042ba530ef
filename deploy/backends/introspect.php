<?php
// What a token says, by PHP's curl (Debian: php-cli php-curl): php introspect.php TOKEN
// INTROSPECTD is the address; CLIENT_ID and CLIENT_SECRET are the caller's.

// Whatever is not a 200 is no answer: let nobody in.
function ask(string $path, string $token): array
{
    $curl = curl_init(getenv('INTROSPECTD') . $path);
    curl_setopt_array($curl, [
        CURLOPT_POSTFIELDS => http_build_query(['token' => $token]),
        CURLOPT_USERPWD => urlencode(getenv('CLIENT_ID')) . ':' . urlencode(getenv('CLIENT_SECRET')),
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_TIMEOUT => 2,
    ]);
    $body = curl_exec($curl);
    if ($body === false || curl_getinfo($curl, CURLINFO_RESPONSE_CODE) !== 200) {
        throw new RuntimeException($path . ': ' . (curl_error($curl) ?: curl_getinfo($curl, CURLINFO_RESPONSE_CODE)));
    }
    return json_decode($body, true, 64, JSON_THROW_ON_ERROR);
}

$answer = ask('/introspect', $argv[1]);
if ($answer['active'] !== true) {
    echo "refused\n";
    exit;
}
echo 'active ', $answer['sub'], "\n";
$transformed = ask('/transform', $argv[1]);
if ($transformed['active'] === true) {
    echo 'claims ', $transformed['claims']['sub'], "\n";
}
