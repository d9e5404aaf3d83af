<?php
$order = curl_init($argv[1]);
curl_setopt_array($order, [
	CURLOPT_POSTFIELDS => '{"quantity":1}',
	CURLOPT_HTTPHEADER => ['Content-Type: application/json'],
	CURLOPT_RETURNTRANSFER => true,
	CURLOPT_FAILONERROR => true,
]);
$answer = curl_exec($order);
if ($answer === false) {
	fwrite(STDERR, curl_error($order) . "\n");
	exit(1);
}
echo $answer;
