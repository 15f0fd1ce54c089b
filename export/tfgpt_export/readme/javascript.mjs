import { env, pipeline, TextStreamer } from "@huggingface/transformers";

env.allowRemoteModels = false; // everything is in this directory
env.localModelPath = ".";
const generator = await pipeline("text-generation", ".", { dtype: "fp32" });
const streamer = new TextStreamer(generator.tokenizer); // prints while tokens come
const options = { max_new_tokens: 32, do_sample: false, streamer };
const [{ generated_text }] = await generator("def main(", options);
console.log(generated_text.length, "characters");
