using Microsoft.ML.OnnxRuntimeGenAI;

using var model = new Model(".");  // reads genai_config.json
using var tokenizer = new Tokenizer(model);
using var prompt = tokenizer.Encode("def main(");
using var parameters = new GeneratorParams(model);
parameters.SetSearchOption("max_length", 48);
using var generator = new Generator(model, parameters);
generator.AppendTokenSequences(prompt);
while (!generator.IsDone()) generator.GenerateNextToken();
Console.WriteLine(tokenizer.Decode(generator.GetSequence(0)));
