import { ActionIcon, type MantineColorScheme, useMantineColorScheme } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { Icon, type IconName } from "../components/Icon";

const next: Record<MantineColorScheme, MantineColorScheme> = {
  auto: "light",
  light: "dark",
  dark: "auto",
};
const icons: Record<MantineColorScheme, IconName> = { auto: "system", light: "sun", dark: "moon" };

/** Goes round: as the system, light, dark. */
export function SchemeButton() {
  const { t } = useTranslation();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const label = t("scheme.label", { scheme: t(`scheme.${colorScheme}`) });
  return (
    <ActionIcon
      variant="subtle"
      color="gray"
      size="lg"
      aria-label={label}
      title={label}
      data-testid="scheme"
      onClick={() => setColorScheme(next[colorScheme])}
    >
      <Icon name={icons[colorScheme]} size={18} />
    </ActionIcon>
  );
}
