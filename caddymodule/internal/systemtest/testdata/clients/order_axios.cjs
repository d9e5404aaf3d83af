const axios = require("axios");

axios.post(process.argv[2], { quantity: 1 }).then((answer) => console.log(JSON.stringify(answer.data)));
