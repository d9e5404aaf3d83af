<?php
// A call without auth code, in PHP.
$api = getenv('ORDERS_API') ?: 'http://127.0.0.1:8080';
$answer = file_get_contents($api . '/orders');
if ($answer === false) {
    exit(1);
}
echo $answer;
